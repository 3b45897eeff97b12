"""Certainty-forcing distillation (dParallel, arXiv 2509.26488): a model learns to be sure of its own answers at once.

The answers are the model's own, decoded one token a step, those kept that are right. A forward sees a block of one half
masked, everything before it, and masks behind; a second one has the other half masked. The loss is the cross-entropy of
the answer's tokens (consistency) and, where the prediction is right already, the entropy of a sharpened distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from dlm.errors import SettingsError
from dlm.training.answers import AnswersTraining, OnAnswers


@dataclass(frozen=True)
class DistillationTraining(AnswersTraining):
    """What a step is made of.

    Attributes:
        beta: weight of the certainty term; 0: consistency alone.
        sharpness: temperature T of the distribution whose entropy is lowered.
        block_length: positions that are masked in part; what is left behind the last whole block belongs to it.
        whole_answer: mask the whole answer in part instead, as for Dream.
        mask_share: probability of each position of the block to be masked in the first of the two forwards.
    """

    beta: float = 2.0
    sharpness: float = 0.5
    block_length: int = 32
    whole_answer: bool = False
    mask_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_length < 1:
            raise SettingsError(f"block_length must be at least 1, got {self.block_length}")
        if not 0 < self.mask_share < 1 or self.sharpness <= 0 or self.beta < 0:
            raise SettingsError(
                "mask_share must be in (0, 1), sharpness above 0 and beta at least 0, got"
                f" {self.mask_share}, {self.sharpness} and {self.beta}"
            )


class Distillation(OnAnswers):
    """Trains a model on its own right answers; ``how`` is a :class:`DistillationTraining`."""

    def loss(self, share: float) -> Tensor:
        """Both terms over both forwards, the mean of the batch."""
        tokens, start, end, noise = self.drawn()
        tokens = tokens[:, : int(end.max())]
        active = active_blocks(start, end, tokens.shape[1], self.how, noise)
        first = active & (torch.rand(active.shape, generator=noise) < self.how.mask_share)
        columns = torch.arange(tokens.shape[1])
        hidden = (columns >= active.long().argmax(dim=1, keepdim=True)) & ~active & (columns >= start[:, None])
        masked = torch.cat([first, active & ~first])
        told = self.logits(tokens.repeat(2, 1), masked, ~hidden.repeat(2, 1), end.repeat(2))
        ce, certainty, right = two_terms(*told, len(masked), self.how.sharpness)
        self.note(consistency=float(ce.detach().mean()), certainty=float(certainty.detach().mean()), right=right)
        return (ce + self.how.beta * certainty).sum() / len(tokens)


def active_blocks(
    start: Int[Tensor, " B"], end: Int[Tensor, " B"], width: int, how: DistillationTraining, noise: torch.Generator
) -> Bool[Tensor, "B T"]:
    """One block of each answer, drawn evenly; the last one goes on to the end."""
    columns = torch.arange(width)
    if how.whole_answer:
        return (columns >= start[:, None]) & (columns < end[:, None])
    blocks = ((end - start) // how.block_length).clamp_min(1)
    number = (torch.rand(len(start), generator=noise) * blocks).long()
    first = start + number * how.block_length
    last = torch.where(number == blocks - 1, end, first + how.block_length)
    return (columns >= first[:, None]) & (columns < last[:, None])


def two_terms(
    logits: Float[Tensor, "M V"], labels: Int[Tensor, " M"], row: Int[Tensor, " M"], rows: int, sharpness: float
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"], float]:
    """Per forward the mean cross-entropy over its masked positions, the mean entropy (nats) of softmax(logits / T) over
    those whose likeliest token is the label, 0 where there is none; and their share of all."""
    logits = logits.float()
    right = logits.argmax(dim=1) == labels
    each = cross_entropy(logits, labels, reduction="none")
    sharp = (logits / sharpness).log_softmax(dim=1)
    entropy = -(sharp.exp() * sharp).sum(dim=1)
    zeros = logits.new_zeros(rows)
    counts, hits = (zeros.index_add(0, row, x) for x in (torch.ones_like(each), right.to(each.dtype)))
    ce = zeros.index_add(0, row, each) / counts.clamp_min(1)
    certainty = zeros.index_add(0, row, entropy * right) / hits.clamp_min(1)
    return ce, certainty, float(right.float().mean())
