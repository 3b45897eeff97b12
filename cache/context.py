"""What a cache is shown before a forward."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from dlm.engine.plan import CacheQuery


@dataclass(frozen=True)
class PolicyContext:
    """What a policy is shown before a forward.

    Attributes:
        query: the decoder's question.
        changed: positions whose token is not the one their stored key was computed for. ``[B, W]``
        live: positions the model may see of each row. ``[B, W]``
        shift: a proposal for position p comes from row p - shift.
        attention_block: as in :class:`dlm.models.backbone.ModelDescription`.
        kept: what a policy has worked out at this step, under names of its own.
    """

    query: CacheQuery
    changed: Bool[Tensor, "B W"]
    live: Bool[Tensor, "B W"]
    shift: int
    attention_block: int
    kept: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def block_start(self) -> Int[Tensor, "B 1"]:
        """First position of each row's block."""
        return self.query.blocks.block_start[:, None]

    @property
    def block_end(self) -> Int[Tensor, "B 1"]:
        """End of each row's block."""
        return self.query.blocks.block_end[:, None]

    @property
    def columns(self) -> Int[Tensor, " W"]:
        """The column numbers of the canvas."""
        return self.query.canvas.columns

    def span(self, start: Int[Tensor, "B 1"], end: Int[Tensor, "B 1"]) -> Bool[Tensor, "B W"]:
        """Positions whose proposals are those of ``[start, end)``, and these positions themselves: a shifted model
        needs the row before."""
        return (self.columns >= start - self.shift) & (self.columns < end)

    def answering(self, wanted: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """The rows that score the positions ``wanted``."""
        return answering(wanted, self.shift)

    def shown(self, fed: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """The positions that the rows ``fed`` score."""
        return pad(fed[:, : -self.shift], (self.shift, 0)) if self.shift else fed

    def recent(self, steps: int) -> Bool[Tensor, "B W"]:
        """Positions committed within the last ``steps`` steps before this one."""
        committed = self.query.canvas.commit_step
        return (committed >= 0) & (committed >= (self.query.blocks.step - steps)[:, None])


def answering(wanted: Bool[Tensor, "B W"], shift: int) -> Bool[Tensor, "B W"]:
    """The rows that score the positions ``wanted``, when proposals stand ``shift`` rows before."""
    return pad(wanted[:, shift:], (0, shift)) if shift else wanted
