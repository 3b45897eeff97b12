"""The upper bound of any rule that commits what is final already: one that knows the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import RowSize, Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from dlm.training.filter_file import Inputs, check_inputs, needs_of
from samplers.settings import within


@dataclass(frozen=True)
class Oracle(Selector):
    """Commit every position of the block whose proposal is the token of a known answer (extremely greedy parallel,
    Learn2PD, arXiv 2509.25188). No rule: it has to be told the answers.

    ``answers`` are whole rows of ids, prompt first; a row is recognised by its prompt. Where no proposal agrees, the
    surest one is committed as it is, so the result can differ from the answer there; a row that is not among the
    answers is decoded one position a step. ``least``: and only what is at least so sure, which leads through the states
    that a careful rule meets. ``inputs``: what a filter's training wants to see of the block, see
    :func:`dlm.training.filter_file.block_inputs`.

    Raises:
        SettingsError: no answers, unknown inputs, least outside [0, 1].
    """

    answers: Sequence[Sequence[int]]
    inputs: Inputs = "masked_probability"
    least: float = 0.0

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        within("[0, 1]", least=self.least)
        object.__setattr__(self, "answers", tuple(tuple(row) for row in self.answers))
        if not self.answers:
            raise SettingsError("the oracle needs at least one answer: whole rows of ids, prompt first")

    @property
    def needs(self) -> frozenset[Statistic]:
        return needs_of(self.inputs)

    def init(self, canvas: Canvas) -> Int[Tensor, "B W"]:
        """The answer of every row, -1 where it has none."""
        width = canvas.tokens.shape[1]
        rows = [[*answer[:width], *[-1] * (width - len(answer))] for answer in self.answers]
        known = torch.tensor(rows, device=canvas.tokens.device)
        lengths = torch.tensor([len(answer) for answer in self.answers], device=canvas.tokens.device)
        given = (canvas.columns < canvas.end[:, None]) & ~canvas.writable
        same = ((known[None] == canvas.tokens[:, None]) | ~given[:, None]).all(dim=2)
        same &= lengths[None] == canvas.end[:, None]
        mine = known[same.int().argmax(dim=1)]
        return torch.where(same.any(dim=1, keepdim=True), mine, -1)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return blocks.block if self.inputs == "probability" else blocks.block & canvas.masked

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.block if self.inputs == "probability" else eligible

    def step(self, view: StepView, state: Int[Tensor, "B W"]) -> tuple[Bool[Tensor, "B N"], Int[Tensor, "B W"]]:
        agrees = view.proposal.token == state.gather(1, view.positions)
        return view.eligible & agrees & (view.proposal.prob >= self.least), state
