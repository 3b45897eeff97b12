"""The references' loops in a few lines each, faults included, recorded in the goldens' schema."""

from __future__ import annotations

import torch


def llada(model, prompts: list[list[int]], new: int, block: int, steps: int, seed: int | None = None) -> dict:
    """LLaDA's fixed loop: the mask id may win, candidates are cut on the right only, no call is saved.

    With a seed positions are taken in random order (``remasking="random"``) from torch's global generator.
    """
    mask, start = model.description.mask_id, len(prompts[0])
    x = torch.tensor([prompt + [mask] * new for prompt in prompts])
    per_block, seen = steps // (new // block), []
    if seed is not None:
        torch.manual_seed(seed)
    for first in range(start, start + new, block):
        masks = (x[:, first : first + block] == mask).sum(1)
        for step in range(per_block):
            seen.append(x.clone())
            confidence, token = _logits(model, x).softmax(-1).max(-1)
            if seed is not None:
                confidence = torch.rand((x.shape[0], x.shape[1]))
            confidence[x != mask] = -torch.inf
            confidence[:, first + block :] = -torch.inf
            for row, n in enumerate(masks.tolist()):
                number = n // per_block + (step < n % per_block)
                chosen = confidence[row].topk(number).indices
                x[row, chosen] = token[row, chosen]
    settings = {"steps": steps, "gen_length": new, "block_length": block, "temperature": 0.0}
    if seed is None:
        return _record(model, "llada_base", settings, prompts, seen, x)
    raw = _record(model, "llada_random", {**settings, "remasking": "random"}, prompts, seen, x)
    return {**raw, "seed": seed}


def dream(model, prompts: list[list[int]], new: int, steps: int, draw: dict | None = None) -> dict:
    """Dream's loop by probability: the mask id may win, the number to commit is the mean over the batch.

    ``draw``: ``seed``, ``temperature`` and ``top_p`` of drawn tokens.
    """
    mask, seen, eps = model.description.mask_id, [], 1e-3
    if draw is not None:
        torch.manual_seed(draw["seed"])
    x = torch.tensor([prompt + [mask] * new for prompt in prompts])
    times = torch.linspace(1, eps, steps + 1)
    for step in range(steps):
        seen.append(x.clone())
        confidence, token = _logits(model, x).softmax(-1).max(-1)
        if draw is not None:
            probs = _nucleus(_logits(model, x)[x == mask] / draw["temperature"], draw["top_p"])
            token[x == mask] = torch.distributions.Categorical(probs=probs).sample()
            confidence[x == mask] = probs.gather(1, token[x == mask][:, None]).squeeze(1)
        confidence[x != mask] = -torch.inf
        mean = (x == mask).sum() / len(prompts)
        number = int(mean * (1 - times[step + 1] / times[step])) if step < steps - 1 else int(mean)
        for row in range(len(prompts)):
            # The reference would go on to overwrite finished positions with the mask.
            chosen = confidence[row].topk(min(number, int((x[row] == mask).sum()))).indices
            x[row, chosen] = token[row, chosen]
    settings = {"max_new_tokens": new, "steps": steps, "alg": "maskgit_plus", "temperature": 0.0, "eps": eps}
    raw = _record(model, "dream_maskgit_plus", settings, prompts, seen, x)
    raw["settings"]["top_k"] = None
    if draw is not None:
        raw["settings"] |= {"temperature": draw["temperature"], "top_p": draw["top_p"]}
        raw["seed"] = draw["seed"]
    return raw


def _nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    ordered, order = logits.sort(descending=True)
    drop = ordered.softmax(-1).cumsum(-1) > top_p
    drop[:, 1:] = drop[:, :-1].clone()
    drop[:, 0] = False
    drop = torch.zeros_like(drop).scatter(1, order, drop)
    return logits.masked_fill(drop, torch.finfo(logits.dtype).min).softmax(-1)


@torch.no_grad()
def _logits(model, x: torch.Tensor) -> torch.Tensor:
    wanted = torch.arange(x.shape[1]).expand_as(x)
    return model.backbone.head(model.backbone.logit_rows(model.backbone.hidden(x), None, wanted))


def _record(model, method: str, settings: dict, prompts: list, seen: list, x: torch.Tensor) -> dict:
    mask, start = model.description.mask_id, len(prompts[0])
    open_ = torch.stack([canvas == mask for canvas in seen])  # [calls, B, L]
    last = open_.long().mul(torch.arange(len(seen))[:, None, None]).amax(0)
    steps = last.masked_fill(x == mask, -1)[:, start:]
    return {
        "id": f"{method}__double",
        "method": method,
        "checkpoint": "double",
        "settings": settings,
        "reference": {},
        "mask_id": mask,
        "prompt_ids": prompts,
        "prompt_len": start,
        "final_ids": x.tolist(),
        "gen_ids": x[:, start:].tolist(),
        "commit_step": steps.tolist(),
        "nfe": len(seen),
        "tokens_per_call": [x.shape[1]] * len(seen),
    }
