"""AdaBlock: blocks that end where a sentence does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import BlockSchedule
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from samplers.blocks.fixed import Fixed
from samplers.settings import at_least, token_ids


@dataclass(frozen=True)
class AdaptiveBlocks(BlockSchedule):
    """A block ends on a delimiter the model expects (AdaBlock, arXiv 2509.26432; details of its code).

    When a block begins at generated position g of G, the forward is looked at over the next min(floor(``window`` G),
    G - g) positions: among those whose proposal is one of ``delimiters`` the most probable one, the lower position
    among equals, ends the block if its probability is >= ``threshold``; otherwise the block has ``length`` positions
    (None: 32, or the whole region where that is shorter). The block's first selection uses the same forward.

    ``delimiters`` are texts, each one token of the model's tokenizer, or token ids. A threshold above 1 gives blocks of
    one length.

    Raises:
        SettingsError: length below 1 or longer than the region, threshold not above 0, window outside [0, 1], no
            delimiters, a text that is no single token.
    """

    length: int | None = None
    delimiters: Sequence[str | int] = ("\n",)
    threshold: float = 0.3
    window: float = 0.25

    def __post_init__(self) -> None:
        at_least(1, **{"blocks.length": self.length})
        if not self.threshold > 0:
            raise SettingsError(f"threshold must be above 0, got {self.threshold}; above 1 no delimiter counts")
        if not 0.0 <= self.window <= 1.0:
            raise SettingsError(f"window is a share of the generated region, in [0, 1], got {self.window}")
        if not self.delimiters:
            raise SettingsError("give at least one delimiter, a text or a token id")

    def bind(self, tokenizer: Any, vocab_size: int) -> AdaptiveBlocks:
        return replace(self, delimiters=token_ids(tokenizer, self.delimiters, vocab_size, "delimiter"))

    def longest(self, region: int) -> int:
        return min(max(Fixed(self.length).longest(region), int(self.window * region)), region)

    def step(self, canvas: Canvas, state: None) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"], None]:
        start = canvas.masked.int().argmax(dim=1)
        furthest = torch.maximum(self._window(canvas), torch.full_like(start, self.length or 32))
        return start, torch.minimum(start + furthest, canvas.end), state

    def narrow(self, view: StepView, opened: Bool[Tensor, " B"], state: None) -> tuple[Int[Tensor, " B"], None]:
        if not all(isinstance(d, int) for d in self.delimiters):
            raise SettingsError("delimiters given as text need the model's tokenizer: give token ids instead")
        canvas, start = view.canvas, view.blocks.block_start
        within = view.positions < (start + self._window(canvas))[:, None]
        ends = torch.zeros_like(view.eligible)
        for delimiter in self.delimiters:
            ends |= view.proposal.token == delimiter
        ends &= view.eligible & within
        prob = view.proposal.prob.masked_fill(~ends, -torch.inf)
        best = prob.argmax(dim=1, keepdim=True)
        found = prob.gather(1, best).squeeze(1) >= self.threshold
        at_delimiter = view.positions.gather(1, best).squeeze(1) + 1
        default = torch.minimum(start + (self.length or 32), canvas.end)
        return torch.where(found, at_delimiter, default), state

    def _window(self, canvas: Canvas) -> Int[Tensor, " B"]:
        """How many positions are searched."""
        return (self.window * canvas.region + 1e-9).floor().long()
