"""Stop after the block that ends the answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import StopRule
from dlm.engine.step import BlockState


@dataclass(frozen=True)
class EndBlock(StopRule):
    """When a completed block holds the end-of-text id, everything after it becomes that id and the row is finished
    (dInfer's early stop, arXiv 2510.08666). A policy, not a no-op: later blocks are never computed."""

    def after_block(self, canvas: Canvas, blocks: BlockState, closed: Bool[Tensor, " B"]) -> Int[Tensor, " B"]:
        end_id = canvas.end_ids[0]
        block = canvas.inside(blocks.block_start, blocks.block_end) & canvas.writable
        ended = closed & (block & (canvas.tokens == end_id)).any(dim=1)
        return torch.where(ended, end_id, -1)
