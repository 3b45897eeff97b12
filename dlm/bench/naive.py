"""The decoder everybody writes first: full-canvas logits, a float64 softmax over all of them, Python in between.

It exists to be compared with, in seconds. (The one tests compare results with is ``tests/naive_decoder.py``.)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from dlm.models import LanguageModel


@dataclass(frozen=True)
class NaiveStep:
    """Seconds of one naive step."""

    forward: float
    outside: float


@torch.inference_mode()
def naive_steps(model: LanguageModel, prompts: list[list[int]], new: int, block: int, steps: int) -> list[NaiveStep]:
    """Time ``steps`` steps that commit the surest position of the active block in every row."""
    mask = model.description.mask_id
    canvas = torch.tensor([prompt + [mask] * new for prompt in prompts], device=model.device)
    start, taken = len(prompts[0]), []
    for step in range(steps):
        end = start + block * (1 + step // block)
        begin = _now(model)
        hidden = model.backbone.hidden(canvas)
        everywhere = torch.arange(canvas.shape[1], device=model.device).expand_as(canvas)
        logits = model.backbone.head(model.backbone.logit_rows(hidden, None, everywhere))
        middle = _now(model)
        tokens = logits.argmax(dim=-1)
        probs = logits.to(torch.float64).softmax(dim=-1)
        confidence = probs.gather(-1, tokens[..., None]).squeeze(-1)
        open_ = canvas == mask
        open_[:, end:] = False
        confidence = torch.where(open_, confidence, -torch.inf)
        for row in range(canvas.shape[0]):
            best = int(confidence[row].argmax())
            canvas[row, best] = tokens[row, best]
        taken.append(NaiveStep(middle - begin, _now(model) - middle))
    return taken


def _now(model: LanguageModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
