"""Runs whose every step can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import samplers
from dlm.api import Run, prompt_job
from dlm.engine.loop import StepEvent
from tests.doubles import random_dream, random_llada

FAMILIES = {"llada": random_llada, "dream": random_dream}
PROMPT = [5, 6, 7, 8, 9, 10, 11]
PROMPTS = [PROMPT, [3, 4, 5, 9, 9, 9, 9, 2, 2, 2, 4], [1, 2]]


@dataclass(frozen=True)
class Step:
    """One row at one step: the canvas after it, and the surest token and its probability at each eligible position."""

    tokens: list[int]
    proposals: dict[int, tuple[int, float]]


@dataclass(frozen=True)
class History:
    """Every step of every row, and what came out."""

    steps: list[list[Step]]
    tokens: list[list[int]]
    counts: list[Any]

    def differs_at(self, other: History, tolerance: float = 0.0) -> int | None:
        """The first step whose proposals or canvas differ; None: there is none."""
        for mine, theirs in zip(self.steps, other.steps, strict=True):
            if len(mine) != len(theirs):
                return min(len(mine), len(theirs))
            for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
                if a.tokens != b.tokens or a.proposals.keys() != b.proposals.keys():
                    return index
                for place, (token, prob) in a.proposals.items():
                    if token != b.proposals[place][0] or abs(prob - b.proposals[place][1]) > tolerance:
                        return index
        return None


def history(
    model: Any,
    cache: Any,
    sampler: Any = None,
    *,
    prompts: Sequence[list[int]] = (PROMPT,),
    new: int = 24,
    batch_size: int = 8,
) -> History:
    """Decode and keep every step."""
    sampler = sampler or samplers.topk(blocks=samplers.Fixed(8))
    jobs = [prompt_job(model, i, prompt, new, {}) for i, prompt in enumerate(prompts)]
    run = Run(model, jobs, sampler, cache, None, 0, batch_size)
    steps: list[list[Step]] = [[] for _ in prompts]
    tokens: list[list[int]] = [[] for _ in prompts]
    counts: list[Any] = [None for _ in prompts]
    for event in run:
        if not isinstance(event, StepEvent):
            tokens[event.index], counts[event.index] = event.tokens, event.counts
            continue
        view = event.view
        for slot, row in enumerate(event.rows):
            entries = zip(
                view.positions[slot].tolist(),
                view.proposal.token[slot].tolist(),
                view.proposal.prob[slot].tolist(),
                view.eligible[slot].tolist(),
                strict=True,
            )
            seen = {place: (token, prob) for place, token, prob, eligible in entries if eligible}
            steps[row.job.index].append(Step(view.canvas.tokens[slot, : row.job.end].tolist(), seen))
    return History(steps, tokens, counts)


def one_layer(family: str, dtype: torch.dtype = torch.float64) -> Any:
    """A model of one layer, on which every cache that obeys the stamp rule is exact."""
    return FAMILIES[family](layers=1, dtype=dtype)
