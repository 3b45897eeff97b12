"""The exact cache of block-causal models (SDAR, LLaDA2.x, Fast-dLLM v2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from cache.context import PolicyContext
from cache.policy import Policy
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import State
from dlm.models.backbone import ModelDescription


@dataclass(frozen=True)
class BlockCausal(Policy):
    """A finished attention block never changes again, so it is computed once with all its tokens, together with the
    first step of what follows it (which saves the separate forward of the published loops). Blocks behind the active
    one are seen by nobody and never fed.
    """

    schedule_known = spans_blocks = exact = True

    def refusal(self, sampler: Sampler, description: ModelDescription) -> str | None:
        if not description.attention_block:
            return (
                "its keys are final only in a model with block-causal attention, and this model's attention is full;"
                " use cache=prefix or dual"
            )
        return super().refusal(sampler, description)

    def refreshes(self, row: Row) -> bool:
        return False

    def visible(self, context: PolicyContext) -> Bool[Tensor, "B W"]:
        return self._blocks(context) <= self._blocks(context).gather(1, (context.block_end - 1).clamp_min(0))

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        # From the first attention block with a mask or a token that is not computed yet; those behind it see it.
        block, inside = self._blocks(context), self.visible(context) & context.live
        open_ = inside & (context.changed | context.query.canvas.masked)
        first = torch.where(open_, block, block.max()).amin(dim=1, keepdim=True)
        return inside & (block >= first)

    def _blocks(self, context: PolicyContext) -> Tensor:
        return (context.columns // context.attention_block).expand_as(context.live)


@dataclass(frozen=True)
class SubBlocks(BlockCausal):
    """The cache inside a block of Fast-dLLM v2 (arXiv 2509.26328): once the first position of the sampler's block
    (``blocks.length=8``) is committed, only that block is fed, over keys of the rest of its attention block that are
    some steps old. Not exact."""

    schedule_known = spans_blocks = exact = False

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        own = context.span(context.block_start + context.shift, context.block_end)
        return torch.where(self._renews(context, own), super().active(context, state), own & context.live)

    def _renews(self, context: PolicyContext, own: Bool[Tensor, "B W"]) -> Bool[Tensor, "B 1"]:
        """Rows whose whole attention block is fed: until the sampler's block has its first token, and where the rest is
        not stored yet, or only without the first token of all."""
        start = context.block_start
        here = self._blocks(context) == start // context.attention_block
        absent = (context.changed & here & ~own).any(dim=1, keepdim=True)
        begins = (start % context.attention_block == 0) & context.changed.gather(1, start)
        return context.query.canvas.masked.gather(1, start) | absent | begins
