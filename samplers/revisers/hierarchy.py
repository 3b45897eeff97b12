"""Divide and conquer: the best position of every run of masks, and what has become improbable masked again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Reviser, Selector
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError
from samplers.settings import within


@dataclass(frozen=True)
class Hierarchy(Selector):
    """In every run of neighbouring masked positions commit the best one if its score is > ``low``; and everything with
    score > ``high`` (None: off), and the best position of all (Hierarchy-dLLM, openreview ZsIQUjQtdW; dInfer's
    ``HierarchyDecoder``).

    Equal best scores in a run: all of them, as in ``HierarchyDecoder``; with ``first=True`` the lowest position (its
    fast variant, which commits nothing but the best of all when no score reaches ``low``).

    Raises:
        SettingsError: ``low`` outside [0, 1), ``high`` not above low.
    """

    low: float = 0.4
    high: float | None = 0.9
    first: bool = False

    always_commits = True

    def __post_init__(self) -> None:
        check_levels(self.low, self.high)

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        chosen = run_best(view, view.scores, view.eligible, self.first) & (view.scores > self.low)
        if self.high is not None:
            chosen = chosen | (view.scores > self.high)
        best = view.scores.argmax(dim=1, keepdim=True)
        return chosen.scatter_(1, best, torch.ones_like(best, dtype=torch.bool)), state


@dataclass(frozen=True)
class HierarchyRemask(Selector):
    """The same over masked and doubtful positions together; doubtful are committed positions of the block whose best
    token now has probability < ``doubt``. So many are chosen, best first where the rule gives fewer, that more
    positions are chosen than doubtful ones exist: with :class:`samplers.RemaskDoubtful`, which takes back the doubtful
    that were not chosen, every step leaves fewer masks than it found (dInfer, remasking variant). Chosen committed
    positions get the present proposal. Equal best scores in a run: all of them, or with ``first=True``, as published,
    the lowest position.

    Raises:
        SettingsError: levels out of range.
    """

    low: float = 0.4
    high: float | None = 0.9
    doubt: float = 0.4
    first: bool = False

    rewrites = always_commits = True

    def __post_init__(self) -> None:
        check_levels(self.low, self.high)
        within("[0, 1]", doubt=self.doubt)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return blocks.block & canvas.writable

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.block

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        doubtful = doubted(view, self.doubt)
        candidates = view.eligible | doubtful
        none = view.canvas.number(-torch.inf, view.proposal.prob.dtype)
        scores = torch.where(candidates, view.proposal.prob, none)
        chosen = run_best(view, scores, candidates, self.first) & (scores > self.low)
        if self.high is not None:
            chosen = chosen | (scores > self.high)
        # The best of all counts as chosen already, the others are filled up behind it.
        missing = (doubtful.sum(dim=1) + 1 - chosen.sum(dim=1)).clamp_min(0)
        rest = view.rank(torch.where(chosen, none, scores))
        return chosen | ((rest < missing[:, None]) & candidates), state


def doubted(view: StepView, doubt: float) -> Bool[Tensor, "B N"]:
    """Committed positions of the block whose best token has become improbable."""
    here = (view.blocks.block & view.canvas.writable).gather(1, view.positions)
    return here & (view.proposal.prob < doubt) & ~view.eligible


def run_best(
    view: StepView, scores: Float[Tensor, "B N"], candidates: Bool[Tensor, "B N"], first: bool
) -> Bool[Tensor, "B N"]:
    """The best candidate of every run of neighbouring candidates; equal ones: all, or the first. The score of what is
    no candidate is -inf."""
    on_canvas = view.marks(candidates)
    starts = on_canvas & ~on_canvas.roll(1, dims=1)
    run = starts.cumsum(dim=1).gather(1, view.positions) * candidates
    best = scores.new_full((scores.shape[0], view.canvas.tokens.shape[1] + 1), -torch.inf)
    best.scatter_reduce_(1, run, scores, "amax")
    ties = candidates & (scores == best.gather(1, run))
    if not first:
        return ties
    place = view.positions.masked_fill(~ties, view.canvas.scratch)
    lowest = torch.full_like(best, view.canvas.scratch, dtype=torch.long).scatter_reduce(1, run, place, "amin")
    return ties & (view.positions == lowest.gather(1, run))


def check_levels(low: float, high: float | None) -> None:
    """Refuse levels that contradict each other."""
    within("[0, 1)", low=low)
    if high is not None and not low < high <= 1.01:
        raise SettingsError(f"high must be above low={low} and at most 1.01, or null (off), got {high}")


@dataclass(frozen=True)
class RemaskDoubtful(Reviser):
    """Remask committed positions of the block whose best token now has probability < ``doubt``, unless this step has
    chosen them (dInfer's hierarchical decoder with remasking). Bounded only with the selector that commits more than it
    doubts, :class:`samplers.HierarchyRemask` with the same ``doubt``.

    Raises:
        SettingsError: doubt outside [0, 1].
    """

    doubt: float = 0.4

    partners = (HierarchyRemask,)

    def __post_init__(self) -> None:
        within("[0, 1]", doubt=self.doubt)

    def fits(self, selector: HierarchyRemask) -> str | None:
        """Why the two would not come to an end together."""
        if selector.doubt == self.doubt:
            return None
        return f"doubt is {self.doubt} here and {selector.doubt} there, give both the same"

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        return view.marks(doubted(view, self.doubt) & ~chosen), state
