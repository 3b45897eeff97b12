"""A masked diffusion model learns to draft for an autoregressive one (DEER, arXiv 2512.15176, section 3).

First (stage I) an answer of the verifier is cut at a random place and everything behind the cut is masked in part; then
(stage II) the answer ends at a random place and only its last tokens are masked, the nearest to what is known weighing
most: what is drafted. The paper's separator between both is left out: it would be an id that the verifier lacks.
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
class DrafterTraining(AnswersTraining):
    """What a step is made of.

    Attributes:
        refine_from: share of the run at which stage II begins; 1: never, 0: at once.
        nearest: the most tokens that stage II masks.
        alpha: in stage II each token weighs so many times what the next one does.
    """

    refine_from: float = 0.5
    nearest: int = 96
    alpha: float = 1.01
    rate: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nearest < 1 or self.alpha <= 0:
            raise SettingsError(f"nearest must be at least 1 and alpha above 0, got {self.nearest} and {self.alpha}")
        if not 0 <= self.refine_from <= 1:
            raise SettingsError(f"refine_from must be from 0 to 1, got {self.refine_from}")


def masks_of(
    start: Int[Tensor, " B"], end: Int[Tensor, " B"], how: DrafterTraining, refine: bool, noise: torch.Generator
) -> tuple[Bool[Tensor, "B T"], Float[Tensor, "B T"], Int[Tensor, " B"]]:
    """Which tokens of each row are masked, what each of them weighs, and where the row ends.

    Args:
        start, end: where each answer begins and ends.
        refine: whether it is stage II.
    """
    length, share = end - start, torch.rand(len(start), 3, generator=noise, dtype=torch.float64)
    if refine:
        stop = start + 1 + (share[:, 0] * length).long()
        first = stop - 1 - (share[:, 1] * (stop - start).clamp_max(how.nearest)).long()
    else:
        stop, first = end, start + (share[:, 0] * length).long()
    columns, level = torch.arange(int(stop.max())), 1 - share[:, 2:]  # in (0, 1]
    there = (columns >= first[:, None]) & (columns < stop[:, None])
    masked = there & (torch.rand(there.shape, generator=noise, dtype=torch.float64) < level)
    ahead = (stop[:, None] - 1 - columns).double()
    weight = there / level / there.sum(dim=1, keepdim=True) * (how.alpha**ahead if refine else 1.0)
    return masked, weight.float(), stop


class Drafter(OnAnswers):
    """Trains a model on the verifier's answers; ``how`` is a :class:`DrafterTraining`."""

    def loss(self, share: float) -> Tensor:
        """Mean over answers of the weighted cross-entropy."""
        tokens, start, end, noise = self.drawn()
        masked, weight, stop = masks_of(start, end, self.how, share >= self.how.refine_from, noise)
        logits, labels, _ = self.logits(tokens[:, : masked.shape[1]], masked, None, stop)
        each = cross_entropy(logits.float(), labels, reduction="none")
        right = (logits.argmax(dim=1) == labels).float()
        loss = (each * weight[masked].to(self.device)).sum() / len(tokens)
        self.note(loss=float(loss.detach()), right=float(right.mean()) if len(right) else 1.0)
        return loss
