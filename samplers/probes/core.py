"""CORE: would a doubtful token be chosen again, if all doubtful ones were masked?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.proposal import Statistic
from dlm.engine.sampler import Sampler
from dlm.engine.step import BlockState, RowSize, StepView, rank
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews
from samplers.settings import at_least, within


class Doubts(NamedTuple):
    """What the next forward asks about.

    Attributes:
        hidden: masked in the version: the doubtful tokens, and what was committed since they were found. ``[B, W]``
        doubted: the doubtful ones, which may be taken back. ``[B, W]``
    """

    hidden: Bool[Tensor, "B W"]
    doubted: Bool[Tensor, "B W"]


@dataclass(frozen=True)
class ContextRobust(Probe):
    """At every ``every``-th step from ``first`` to ``last`` of a block's steps find the ``candidates`` committed tokens
    with the smallest margin, mask them together in one version, and replace up to ``number`` for which that version has
    another token, with probability ``sure`` or more: those whose own probability is the lowest there (CORE, arXiv
    2602.04096, and the authors' code). The last ``protected`` positions of a block are spared. A step is one of a
    budget of ``tokens_per_step``.

    The authors ask in a forward between a step's own and its commits. Here the step commits at once, and the version
    goes beside the next forward, in which what the step has committed is masked, too: the same question. Where a token
    is replaced that forward does nothing else, since it saw the old one; elsewhere nothing is asked for twice.

    Raises:
        SettingsError: a number below 1, a share outside its range.
    """

    tokens_per_step: int = 1
    every: int = 8
    candidates: int = 32
    number: int = 1
    sure: float = 0.3
    first: float = 0.25
    last: float = 0.75
    protected: int = 16

    needs = frozenset[Statistic]({"margin"})
    remasks = reads_own = True
    versions = 1

    def __post_init__(self) -> None:
        at_least(1, tokens_per_step=self.tokens_per_step, every=self.every)
        at_least(1, candidates=self.candidates, number=self.number)
        at_least(0, protected=self.protected)
        within("[0, 1]", sure=self.sure, first=self.first, last=self.last)
        if self.first >= self.last:
            raise SettingsError(f"first must be below last, got {self.first} and {self.last}")

    def clashes(self, sampler: Sampler) -> str | None:
        if sampler.constraint is not None:
            return "core replaces single tokens, which a constraint has not chosen together with the others: use topk"
        return super().clashes(sampler)

    def init(self, canvas: Canvas) -> Doubts:
        return Doubts(torch.zeros_like(canvas.writable), torch.zeros_like(canvas.writable))

    def asks(self, state: Doubts) -> Int[Tensor, " B"]:
        return state.doubted.any(dim=1).long()

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        open_ = (canvas.masked & blocks.block).sum(dim=1)
        return blocks.block & canvas.writable & self._due(blocks, blocks.block_masks - open_)[:, None]

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.block

    def propose(self, canvas: Canvas, blocks: BlockState, state: Doubts) -> Edits:
        position = pack_positions(state.hidden, canvas.columns, self.candidates + self.tokens_per_step)[:, None]
        return Edits(
            position, torch.full_like(position, canvas.mask_id), torch.zeros_like(position, dtype=torch.double)
        )

    def choose(self, views: VersionViews, state: Doubts) -> Choice:
        assert views.own is not None
        now, own = views.canvas.tokens.gather(1, views.positions), views.own[:, 1].double()
        token, prob = views.proposal.token[:, 1], views.proposal.prob[:, 1]
        doubted = state.doubted.gather(1, views.positions) & views.edited[:, 1] & views.exists[:, 1:]
        wrong = doubted & (token != now) & (prob >= self.sure)
        wrong = wrong & (rank(-own.masked_fill(~wrong, torch.inf)) < min(self.number, self.tokens_per_step))
        some = wrong.any(dim=1)
        return Choice(some.long(), commit=wrong, only=~some[:, None].expand_as(wrong), part=wrong)

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Doubts) -> Doubts:
        canvas, blocks, margin = view.canvas, view.blocks, view.proposal.margin
        assert margin is not None
        open_ = (canvas.masked & blocks.block).sum(dim=1)
        replaced = (chosen & view.here(state.doubted)).any(dim=1)
        due = self._due(blocks, blocks.block_masks - open_ - chosen.sum(dim=1)) & ~replaced & (open_ > 0)
        spared = canvas.columns >= (blocks.block_end - self.protected)[:, None]
        kept = view.here(blocks.block & canvas.writable & ~canvas.masked & ~spared) & ~chosen & due[:, None]
        worst = rank(-margin.double().masked_fill(~kept, torch.inf)) < self.candidates
        doubted = view.marks(kept & worst)
        asked = doubted.any(dim=1, keepdim=True)
        return Doubts(doubted | (view.marks(chosen) & asked), doubted)

    def _due(self, blocks: BlockState, filled: Int[Tensor, " B"]) -> Bool[Tensor, " B"]:
        """Whether a step that finds so many positions of its block filled is one that is to be checked."""
        each = self.tokens_per_step
        step, steps = (filled + each - 1) // each, ((blocks.block_masks + each - 1) // each).double()
        inside = (step >= (steps * self.first).long()) & (step < (steps * self.last).long())
        return inside & (step % self.every == 0)
