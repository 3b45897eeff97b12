"""Rows that begin short and go by where the model expects the end: DAEDAL, and rho-EOS, which lets them shrink too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule, Growth
from dlm.engine.step import BlockState, RowSize, State, StepView
from dlm.errors import SettingsError
from samplers.settings import at_least


@dataclass(frozen=True)
class _Growing(BlockSchedule):
    """Blocks of ``length`` from left to right over a region that begins with ``initial`` positions."""

    initial: int = 64
    length: int | None = None

    def longest(self, region: int) -> int:
        return min(self.length or 32, region)

    def starting_length(self, region: int) -> int:
        return min(self.initial, region)

    def step(self, canvas: Canvas, state: State) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], State]:
        length = self.length or 32
        first = canvas.masked.int().argmax(dim=1)
        start = canvas.start + (first - canvas.start).clamp_min(0) // length * length
        return start, torch.minimum(start + length, canvas.end), state

    def move(
        self, canvas: Canvas, blocks: BlockState, state: State
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], State]:
        return self.step(canvas, state)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return canvas.inside(canvas.start, canvas.end)

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.region


@dataclass(frozen=True)
class GrowingBlocks(_Growing):
    """Blocks of ``length`` over a region that grows from ``initial`` positions to at most what was asked for (DAEDAL,
    arXiv 2508.00819; details of its code).

    How sure the model is that the text ends inside is the sum of the probabilities of the ``window`` rightmost
    positions whose proposal is the end-of-text id, divided by ``window``.

    * Before anything is committed: while that is below ``enough``, ``step_size`` masks are appended, and nothing is
      committed from the forward.
    * Later: while it is below ``certain``, the open position of the block with the lowest probability below ``unsure``
      that is not committed now becomes ``step_size`` masks.

    (The code of the paper spends one more forward when the length is settled, which shows nothing new; its version for
    batches then appends half a window of end-of-text tokens.)

    Costs a proposal at every position of the region, so it goes with ``cache=none`` alone.

    Raises:
        SettingsError: a length, a step or a window below 1, thresholds outside [0, 1].
    """

    step_size: int = 8
    window: int = 32
    enough: float = 0.5
    certain: float = 0.9
    unsure: float = 0.1

    def __post_init__(self) -> None:
        at_least(1, **{f"blocks.{name}": getattr(self, name) for name in ("initial", "length", "step_size", "window")})
        for name in ("enough", "certain", "unsure"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise SettingsError(f"blocks.{name} is a probability, in [0, 1], got {getattr(self, name)}")

    def init(self, canvas: Canvas) -> Bool[Tensor, " B"]:
        """Whether the first length of the row is settled."""
        return torch.zeros_like(canvas.start, dtype=torch.bool)

    def grow(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Bool[Tensor, " B"]
    ) -> tuple[Growth, Bool[Tensor, " B"]]:
        canvas, ends = view.canvas, self._end_confidence(view)
        short = ~state & (ends < self.enough) & (canvas.end < canvas.asked)
        prob = view.proposal.prob.double()
        doubted = view.eligible & ~chosen & (prob < self.unsure)
        worst = prob.masked_fill(~doubted, torch.inf).argmin(dim=1, keepdim=True)
        inserts = ~short & (ends < self.certain) & doubted.any(dim=1)
        length = torch.where(short, self.step_size, 0) + torch.where(inserts, self.step_size - 1, 0)
        at = torch.where(inserts, view.positions.gather(1, worst).squeeze(1), canvas.end)
        return Growth(at, length, short), ~short

    def _end_confidence(self, view: StepView) -> Float[Tensor, " B"]:
        """How sure the model is that the text ends within the row."""
        ends = view.real & (view.proposal.token == view.canvas.end_ids[0])
        from_right = ends.flip(1).cumsum(dim=1).flip(1)
        counted = ends & (from_right <= self.window)
        return (view.proposal.prob.double() * counted).sum(dim=1) / self.window


@dataclass(frozen=True)
class DensityBlocks(_Growing):
    """Blocks of ``length`` over a region that begins with ``initial`` positions, grows to at most what was asked for,
    and shrinks again (rho-EOS, arXiv 2601.22527): of the masks that a step leaves, rho is the share whose proposal is
    the end-of-text id. While rho < ``low``, masks are appended; while rho > ``high``, masks are taken off the end:
    ``step_size``, twice as many for every tenth that rho is further out, at most eight times as many. The next forward
    sees them; a step commits whatever it would otherwise.

    After the paper's abstract and the released code, whose defaults these are; the full text was not at hand. That code
    has the share, and calls in its place the end confidence of DAEDAL; it also cuts committed tokens off, and leaves a
    row as it is from the first time that it is as long as it may get, or after 64 steps. Here tokens stay, and a row is
    adjusted as long as it has masks.

    Costs a proposal at every position of the region, so it goes with ``cache=none`` alone.

    Raises:
        SettingsError: a length or a step below 1, shares outside [0, 1], ``low`` above ``high``.
    """

    step_size: int = 8
    low: float = 0.4
    high: float = 0.6

    def __post_init__(self) -> None:
        at_least(1, **{f"blocks.{name}": getattr(self, name) for name in ("initial", "length", "step_size")})
        if not 0.0 <= self.low <= self.high <= 1.0:
            raise SettingsError(f"0 <= blocks.low <= blocks.high <= 1 must hold, got {self.low} and {self.high}")

    def grow(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Growth, None]:
        canvas = view.canvas
        left = view.here(canvas.masked) & ~chosen
        ends = left & (view.proposal.token == canvas.end_ids[0])
        density = ends.sum(dim=1).double() / left.sum(dim=1)
        below, above = self.low - density, density - self.high
        # A tenth exactly is one tenth, whatever the rounding; a row without masks has no density and stays.
        tenths = (torch.maximum(below, above) * 10 - 1e-9).ceil().clamp(1, 4)
        length = (2 ** (tenths - 1) * self.step_size).nan_to_num().long()
        length = torch.where(below > 0, length, 0) - torch.where(above > 0, length, 0)
        return Growth(canvas.end, length, torch.zeros_like(length, dtype=torch.bool)), state
