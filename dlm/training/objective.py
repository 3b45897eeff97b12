"""The masked-diffusion objective with exact mask counts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from dlm.training.data import Batch


def mask_responses(
    response: Bool[Tensor, "B T"], suffix_share: float, generator: torch.Generator
) -> tuple[Bool[Tensor, "B T"], Float[Tensor, " B"]]:
    """Which response positions are masked, and each row's weight G/k.

    A row of G response positions has exactly k of them masked, k uniform on 1..G, stratified over the batch. For most
    rows every subset of that size is equally likely; then the expectation of weight x (sum of cross-entropies) is the
    any-order bound on -log p (LLaDA, arXiv 2502.09992, equations 3 and 14; Ou et al., arXiv 2406.03736). A share
    ``suffix_share`` of the rows has its last k positions masked instead, the states that block-wise decoding visits.
    """
    rows = response.shape[0]
    size = response.sum(dim=1)
    strata = (torch.randperm(rows, generator=generator) + torch.rand(rows, generator=generator)) / rows
    k = (strata * size).long().clamp_max(size - 1) + 1
    order = torch.rand(response.shape, generator=generator)
    columns = torch.arange(response.shape[1], dtype=order.dtype)
    suffix = torch.rand(rows, generator=generator) < suffix_share
    order = torch.where(suffix[:, None], -columns, order).masked_fill(~response, torch.inf)
    ranks = order.argsort(dim=1).argsort(dim=1)
    return ranks < k[:, None], size / k.clamp_min(1)


def mask_blocks(
    response: Bool[Tensor, "B T"], length: int, suffix_share: float, generator: torch.Generator
) -> tuple[Bool[Tensor, "B T"], Float[Tensor, "B T"]]:
    """The same in every attention block of ``length`` positions by itself (block diffusion, BD3-LM, arXiv 2503.09573):
    which positions are masked, and the weight of each."""
    rows, width = response.shape
    cells = pad(response, (0, -width % length)).view(-1, length)
    masked, weight = mask_responses(cells, suffix_share, generator)
    whole = (weight[:, None] * cells).view(rows, -1)
    return masked.view(rows, -1)[:, :width], whole[:, :width]


def two_copies(
    noisy: Int[Tensor, "B T"], clean: Int[Tensor, "B T"], length: int
) -> tuple[Int[Tensor, "B 2*T"], Int[Tensor, "B 2*T"], Bool[Tensor, "B 2*T 2*T"]]:
    """Tokens, positions and attention of a forward that sees every block as decoding does: a noisy block itself, and
    the clean blocks before it. The first half of the columns is the noisy copy."""
    rows, width = noisy.shape
    block = torch.arange(width, device=noisy.device) // length
    same, before = block[:, None] == block, block[:, None] > block
    seen = torch.cat([torch.cat([same, before], 1), torch.cat([torch.zeros_like(same), same | before], 1)])
    where = torch.arange(width, device=noisy.device).repeat(2)
    return torch.cat([noisy, clean], 1), where.expand(rows, -1), seen.expand(rows, -1, -1)


def loss_of(
    logits: Float[Tensor, "M V"], batch: Batch, masked: Bool[Tensor, "B T"], weight: Float[Tensor, "B T"]
) -> tuple[Float[Tensor, ""], Float[Tensor, " B"]]:
    """Mean over rows of the sum of weight x cross-entropy / (answer length), in nats, and the rows' own values.

    ``logits`` are those of the masked positions, row by row. The division by the answer's length (one end token
    included, the filler not) keeps long canvases from weighing more than their content.
    """
    row = masked.nonzero()[:, 0]
    each = cross_entropy(logits.float(), batch.tokens[masked], reduction="none")
    per_row = torch.zeros_like(weight[:, 0]).index_add_(0, row, each * weight[masked]) / batch.answer
    return per_row.mean(), per_row.detach()


def noised(tokens: Int[Tensor, "B T"], masked: Bool[Tensor, "B T"], mask_id: int) -> Int[Tensor, "B T"]:
    """The rows with the mask id at the masked positions."""
    return tokens.masked_fill(masked, mask_id)
