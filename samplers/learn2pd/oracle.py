"""The bound no filter can pass, and the walk a filter learns from: commit what agrees with a known answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import LogitTransform, Selector
from dlm.engine.proposal import BANNED, Statistic
from dlm.engine.step import BlockState, LogitRows, RowSize, StepView, rank
from dlm.errors import SettingsError
from dlm.training.filter_file import Inputs, needs_of
from samplers.settings import within


@dataclass(frozen=True)
class Oracle(Selector):
    """Commit every position of the block whose proposal is the token of a known answer (extremely greedy parallel,
    Learn2PD, arXiv 2509.25188). No rule: it has to be told the answers.

    ``answers`` are whole rows of ids, prompt first; a row is recognised by its prompt; one that is not among the
    answers is decoded one position a step. Where no proposal agrees nothing is committed, and with
    :class:`samplers.OracleEscape` the rest of the block is the answer at the next forward. ``least``: only what is at
    least so sure, or the surest that agrees, which leads through the states that a careful rule meets. ``inputs``: what
    a filter's training wants to see of the block, see :func:`dlm.training.filter_file.block_inputs`.

    Raises:
        SettingsError: no answers, unknown inputs, least outside [0, 1].
    """

    answers: Sequence[Sequence[int]]
    inputs: Inputs = "masked_probability"
    least: float = 0.0

    # A step without a commit is followed by one that fills the block.
    idle_steps = 1

    def __post_init__(self) -> None:
        within("[0, 1]", least=self.least)
        if not self.answers:
            raise SettingsError("the oracle needs at least one answer: whole rows of ids, prompt first")

    @property
    def needs(self) -> frozenset[Statistic]:
        return needs_of(self.inputs)

    def init(self, canvas: Canvas) -> Int[Tensor, "B W"]:
        return known(self.answers, canvas)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return blocks.block if self.inputs == "probability" else blocks.block & canvas.masked

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.block if self.inputs == "probability" else eligible

    def step(self, view: StepView, state: Int[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Int[Tensor, "B W"]]:
        assert view.scores is not None
        answer = state.gather(1, view.positions)
        agrees = view.eligible & (view.proposal.token == answer)
        untold = ~(view.eligible & (answer >= 0)).any(dim=1, keepdim=True)
        surest = rank(view.scores.masked_fill(~(agrees | untold), -torch.inf)) == 0
        final = agrees & (view.proposal.prob >= self.least)
        waits = ~final.any(dim=1, keepdim=True)
        return final | (waits & surest & (agrees | untold)), state


class Stuck(NamedTuple):
    """What the escape remembers.

    Attributes:
        answer: of every row, -1 where it has none. ``[B, W]``
        step, open: the last step, and how many masks the block had then. ``[B]``
        stuck: whether the step before that one committed nothing. ``[B]``
    """

    answer: Int[Tensor, "B W"]
    step: Int[Tensor, " B"]
    open: Int[Tensor, " B"]
    stuck: Bool[Tensor, " B"]


@dataclass(frozen=True)
class OracleEscape(LogitTransform):
    """After a step at which :class:`samplers.Oracle` committed nothing, the model proposes the answer: the published
    walk, seeing the same proposals twice, writes the rest of the block."""

    answers: Sequence[Sequence[int]]

    def init(self, canvas: Canvas) -> Stuck:
        none = torch.zeros_like(canvas.start)
        return Stuck(known(self.answers, canvas), none - 1, none - 1, none > 0)

    def step(self, logits: Float[Tensor, "R V"], at: LogitRows, state: Stuck) -> tuple[Float[Tensor, "R V"], Stuck]:
        blocks, open_ = at.blocks, (at.canvas.masked & at.blocks.block).sum(dim=1)
        # Logits come in chunks: a step is looked at once, with its first.
        new = blocks.step != state.step
        again = (blocks.block_step > 0) & (open_ == state.open)
        state = Stuck(state.answer, blocks.step, open_, torch.where(new, again, state.stuck))
        answer = state.answer[at.row, at.position]
        given = (state.stuck[at.row] & at.eligible & (answer >= 0))[:, None]
        certain = torch.full_like(logits, BANNED).scatter(1, answer.clamp_min(0)[:, None], 0.0)
        return torch.where(given, certain, logits), state


def known(answers: Sequence[Sequence[int]], canvas: Canvas) -> Int[Tensor, "B W"]:
    """The answer of every row, recognised by what is given of it; -1 where it has none."""
    width = canvas.tokens.shape[1]
    rows = torch.tensor([[*answer[:width], *[-1] * (width - len(answer))] for answer in answers])
    rows = rows.to(canvas.tokens.device)
    lengths = torch.tensor([len(answer) for answer in answers], device=canvas.tokens.device)
    given = (canvas.columns < canvas.end[:, None]) & ~canvas.writable
    same = ((rows[None] == canvas.tokens[:, None]) | ~given[:, None]).all(dim=2)
    same &= lengths[None] == canvas.end[:, None]
    return torch.where(same.any(dim=1, keepdim=True), rows[same.int().argmax(dim=1)], -1)
