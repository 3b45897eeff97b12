"""CreditDecoding: tokens that keep winning gain weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import LogitTransform
from dlm.engine.proposal import BANNED, wide
from dlm.engine.step import LogitRows
from dlm.errors import SettingsError
from samplers.settings import at_least, within


class CreditStore(NamedTuple):
    """Credit of each position for the few tokens it has proposed; its size does not depend on the vocabulary.

    Attributes:
        token: ids, -1 in free slots. ``[B, W, K]``
        value: their credit. ``[B, W, K]``
        block: number of the block the credit was given in; credit of an earlier block is void. ``[B, W]``
    """

    token: Int[Tensor, "B W K"]
    value: Float[Tensor, "B W K"]
    block: Int[Tensor, "B W"]


@dataclass(frozen=True)
class Credit(LogitTransform):
    """Add alpha ln(1 + C_i(v)) to the logits (CreditDecoding, arXiv 2510.06133, equations 6 and 7).

    At every step of a block, for each position that may be committed: the credit decays, C <- beta C; the best token v*
    of the raw softmax gets p(v*)^gamma more; then the logits are fused, with this step's deposit counted. Credit begins
    at 0 in every block and is dropped when a position is masked again (the paper has no remasking).

    ``slots`` tokens per position are kept, that with the least credit giving way to a new one. ``store="dense"`` keeps
    the whole vocabulary, for comparison only: its memory is [B, W, V].

    ``alpha=None`` and ``beta=None`` is the parameter-free form: both are 1 - (masked share of the block), gamma is 1
    (which share the paper means is UNVERIFIED).

    Raises:
        SettingsError: negative alpha, beta outside [0, 1], gamma not above 0, fewer than 1 slot, an unknown store, or
            only one of alpha and beta left out.
    """

    alpha: float | None = 0.65
    beta: float | None = 0.70
    gamma: float = 0.20
    slots: int = 8
    store: Literal["sparse", "dense"] = "sparse"

    def __post_init__(self) -> None:
        if (self.alpha is None) != (self.beta is None):
            raise SettingsError("alpha and beta are given together, or both left out (null: parameter-free)")
        if self.alpha is not None and not 0.0 <= self.alpha < float("inf"):
            raise SettingsError(f"alpha must be 0 (off) or more, got {self.alpha}")
        within("[0, 1]", beta=self.beta)
        if not 0.0 < self.gamma < float("inf"):
            raise SettingsError(f"gamma must be above 0, got {self.gamma}")
        at_least(1, slots=self.slots)

    def init(self, canvas: Canvas) -> CreditStore:
        # A block takes no more forwards than a row has columns, and each deposits one token.
        slots = min(self.slots, canvas.tokens.shape[1])
        shape = (*canvas.tokens.shape, 1 if self.store == "dense" else slots)
        device = canvas.tokens.device
        return CreditStore(
            torch.full(shape, -1, dtype=torch.long, device=device),
            torch.zeros(shape, device=device),
            torch.zeros_like(canvas.tokens),
        )

    def forget(self, where: Tensor, state: CreditStore) -> CreditStore:
        return state._replace(block=state.block.masked_fill(where, 0))

    def step(
        self, logits: Float[Tensor, "R V"], at: LogitRows, state: CreditStore
    ) -> tuple[Float[Tensor, "R V"], CreditStore]:
        logits, best, prob = _winner(logits, at.canvas.mask_id)
        alpha, beta, gamma = self._strengths(at)
        deposit, number = (prob**gamma).float()[:, None], at.blocks.block_number[at.row]
        void = (state.block[at.row, at.position] != number)[:, None]
        value = state.value[at.row, at.position].masked_fill_(void, 0.0).mul_(beta)
        if self.store == "dense":
            if value.shape[1] == 1:
                value = value.expand(-1, logits.shape[1])
            value = value.scatter_add(1, best, deposit)
            token = torch.arange(logits.shape[1], device=logits.device).expand_as(value)
        else:
            token = state.token[at.row, at.position].masked_fill_(void, -1)
            own = token == best
            # The token's own slot, or that with the least credit; none is below 0.
            slot = torch.where(own, at.canvas.number(-1.0, value.dtype), value).argmin(dim=1, keepdim=True)
            deposit += (value * own).sum(dim=1, keepdim=True)
            token.scatter_(1, slot, best)
            value.scatter_(1, slot, deposit)
        # A free slot has no credit, and so no bonus, whatever token is named for it.
        bonus = value.log1p().mul_(alpha).mul_(at.eligible[:, None])
        logits.scatter_add_(1, token.clamp_min(0), bonus.to(logits.dtype))
        return logits, self._stored(state, at, CreditStore(token, value, number))

    def _strengths(self, at: LogitRows) -> tuple[float | Tensor, float | Tensor, float]:
        """alpha, beta (numbers, or one per line) and gamma."""
        if self.alpha is not None and self.beta is not None:
            return self.alpha, self.beta, self.gamma
        block = at.blocks.block & at.canvas.writable
        masked = (block & at.canvas.masked).sum(dim=1) / block.sum(dim=1)
        free = (1.0 - masked)[at.row][:, None]
        return free, free, 1.0

    def _stored(self, state: CreditStore, at: LogitRows, new: CreditStore) -> CreditStore:
        """The store with the ``new`` lines that count; fillers, and what is only looked at, go to the trash."""
        line = at.row, torch.where(at.eligible, at.position, at.canvas.columns[-1])
        value = state.value.expand(-1, -1, new.value.shape[1]).index_put(line, new.value)
        token = state.token if self.store == "dense" else state.token.index_put(line, new.token)
        return CreditStore(token, value, state.block.index_put(line, new.block))


def _winner(
    logits: Float[Tensor, "R V"], mask_id: int
) -> tuple[Float[Tensor, "R V"], Int[Tensor, "R 1"], Float[Tensor, " R"]]:
    """The logits in at least float32, the best token that is not the mask, and its probability under the raw
    softmax."""
    x = wide(logits)
    mask = x[:, mask_id].clone() if x is logits else None
    probs = x.softmax(dim=1)
    logits[:, mask_id].fill_(BANNED)
    best = logits.max(dim=1, keepdim=True).indices
    if mask is not None:
        x[:, mask_id] = mask
    return x, best, probs.gather(1, best)[:, 0]
