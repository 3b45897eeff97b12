"""Decoding with the doubles, and views made by hand."""

from __future__ import annotations

from typing import Any

import torch

import dlm
from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.proposal import Proposal
from dlm.engine.step import BlockState, StepView

MASK, END = 900, 0


def decode(model: Any, sampler: dlm.Sampler, new: int, **options: Any) -> dlm.Generation:
    """One row of ``new`` positions behind a prompt of one token, with its trace."""
    options = {"record": "commits", **options}
    return dlm.generate(model, [[0]], sampler=sampler, max_new_tokens=new, **options)[0]


def history(answer: dlm.Generation) -> list[tuple[set[int], set[int]]]:
    """What every step committed and what it took back, as generated positions."""
    assert answer.trace is not None
    start = answer.trace.start
    return [({p - start for p in s.positions}, {p - start for p in s.remasked}) for s in answer.trace.steps]


def commits(model: Any, sampler: dlm.Sampler, new: int) -> list[set[int]]:
    """What every step committed; nothing was taken back."""
    steps = history(decode(model, sampler, new))
    assert not any(taken_back for _, taken_back in steps)
    return [committed for committed, _ in steps]


def outcome(answer: dlm.Generation) -> tuple[list[int], list[int], int]:
    """What two runs that decode alike agree on."""
    return answer.tokens, answer.commit_step, answer.counts.forwards


def blank_canvas(positions: int, rows: int = 1) -> Canvas:
    """Rows without a prompt, all masked."""
    jobs = [Job(i, (MASK,) * positions, 0, tuple(range(positions)), i) for i in range(rows)]
    return Canvas.of(jobs, positions, SpecialIds(MASK, (END,)), torch.device("cpu"))


def blocks_of(canvas: Canvas, step: int = 0, number: int = 1) -> BlockState:
    """A clock at ``step`` of a block that is the whole canvas."""
    steps = torch.full_like(canvas.start, step)
    inside = canvas.inside(canvas.start, canvas.end)
    masks = canvas.end - canvas.start
    count = torch.full_like(steps, number)
    return BlockState(steps, canvas.start, canvas.end, steps, masks, inside, count, canvas.end)


def view_of(scores: list[float], tokens: list[int] | None = None, step: int = 0) -> StepView:
    """One blank row with these scores, which are the probabilities too, and proposals."""
    canvas = blank_canvas(len(scores))
    positions = torch.arange(len(scores))[None]
    values = torch.tensor([scores], dtype=torch.float64)
    proposal = Proposal(torch.tensor([tokens or [1] * len(scores)]), values)
    eligible = torch.ones_like(positions, dtype=torch.bool)
    return StepView(canvas, blocks_of(canvas, step), positions, eligible, proposal, values, most=len(scores))


def chosen_of(chosen: torch.Tensor) -> set[int]:
    """The positions of the only row."""
    return set(chosen[0].nonzero().flatten().tolist())
