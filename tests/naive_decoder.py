"""A naive decoder to compare with: one row, float64 logits of the whole canvas, Python lists, no cleverness."""

from __future__ import annotations

import torch


def naive_logits(model, canvas: list[int]) -> torch.Tensor:
    """Logits aligned with positions, ``[L, V]`` float64."""
    tokens = torch.tensor([canvas])
    wanted = torch.arange(len(canvas))[None]
    hidden = model.backbone.hidden(tokens)
    return model.backbone.head(model.backbone.logit_rows(hidden, None, wanted))[0].double()


def answers_of(model, canvas: list[int]) -> tuple[list[int], list[float]]:
    """The likeliest token that is no mask, and its probability, at every position."""
    with torch.no_grad():
        logits = naive_logits(model, canvas)
    probs = logits.softmax(-1)
    logits[:, model.description.mask_id] = -torch.inf
    tokens = logits.argmax(-1)
    return tokens.tolist(), probs.gather(1, tokens[:, None]).squeeze(1).tolist()


def naive_decode(model, prompt: list[int], new: int, block: int, rule) -> tuple[list[int], list[int], int]:
    """Decode one prompt; ``rule(scores: {position: confidence}, step_in_block) -> positions to commit``.

    Returns tokens, commit steps and the number of forwards.
    """
    mask = model.description.mask_id
    canvas = list(prompt) + [mask] * new
    steps = [-1] * new
    forwards = 0
    for start in range(len(prompt), len(canvas), block):
        end = min(start + block, len(canvas))
        step_in_block = 0
        while any(canvas[p] == mask for p in range(start, end)):
            with torch.no_grad():
                logits = naive_logits(model, canvas)
            probs = logits.softmax(-1)
            logits[:, mask] = -torch.inf
            logits[:, model.description.valid_vocab :] = -torch.inf
            best = {p: int(logits[p].argmax()) for p in range(start, end) if canvas[p] == mask}
            scores = {p: float(probs[p, token]) for p, token in best.items()}
            chosen = [p for p in rule(scores, step_in_block) if p in scores]
            for p in chosen or [max(scores, key=lambda p: (scores[p], -p))]:
                canvas[p] = best[p]
                steps[p - len(prompt)] = forwards
            forwards += 1
            step_in_block += 1
    return canvas[len(prompt) :], steps, forwards


def top_k(k: int):
    """The k surest positions, the lower one first among equals."""
    return lambda scores, step: sorted(scores, key=lambda p: (-scores[p], p))[:k]


def at_least(threshold: float):
    """Every position at or above the threshold."""
    return lambda scores, step: [p for p, c in scores.items() if c >= threshold]
