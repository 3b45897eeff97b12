"""Losses of learning from rollouts (GRPO, arXiv 2402.03300, and what CJ-GRPO and coupled-GRPO make of it)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.errors import SettingsError
from dlm.replaying import Trajectory
from dlm.words import not_among

Baseline = Literal["mean", "standardised", "leave_one_out"]


def advantages(rewards: Float[Tensor, "Q K"], baseline: Baseline = "mean") -> Float[Tensor, "Q K"]:
    """What each of K answers to a question is worth beside the others.

    ``mean``: reward less the mean of the group; ``standardised``: the same over the group's standard deviation (with
    K - 1, as published; 1e-4 is added); ``leave_one_out``: less the mean of the others, K / (K - 1) times the first.

    Raises:
        SettingsError: fewer than two answers, an unknown baseline, or a reward that is no finite number.
    """
    if rewards.shape[1] < 2:
        raise SettingsError("a group needs at least 2 answers, or there is nothing to compare an answer with")
    if baseline not in get_args(Baseline):
        raise SettingsError(not_among("baseline", baseline, get_args(Baseline)))
    odd = (~rewards.isfinite()).nonzero()
    if len(odd):
        question, answer = odd[0].tolist()
        raise SettingsError(f"the reward of question {question}, answer {answer} is {float(rewards[question, answer])}")
    size = rewards.shape[1]
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if baseline == "standardised":
        return centred / (rewards.std(dim=1, keepdim=True) + 1e-4)
    return centred * (size / (size - 1) if baseline == "leave_one_out" else 1.0)


def surrogate(
    new: Float[Tensor, "B N"], old: Float[Tensor, "B N"], advantage: Float[Tensor, " B"], clip: float
) -> Float[Tensor, "B N"]:
    """The clipped surrogate of PPO (arXiv 1707.06347, equation 7) as a loss, token by token; the ratio of new to old
    is kept within ``1 - clip`` and ``1 + clip``."""
    ratio = (new - old).exp()
    worth = advantage[:, None]
    return -torch.minimum(ratio * worth, ratio.clamp(1 - clip, 1 + clip) * worth)


def k3(new: Float[Tensor, "B N"], reference: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """An estimate of KL(new || reference) that is never negative: exp(d) - d - 1, d = reference - new."""
    d = reference - new
    return d.exp() - d - 1


def token_weights(counts: Bool[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Every token alike: the mean over the tokens of the batch."""
    return counts.double() / counts.sum().clamp_min(1)


def transition_weights(rows: Sequence[Trajectory], counts: Bool[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """The mean over a step's tokens, then over a row's steps, then over rows (CJ-GRPO)."""
    weights = torch.zeros(counts.shape, dtype=torch.float64)
    for number, row in enumerate(rows):
        places = [place for place in range(len(row.tokens)) if counts[number, place]]
        steps = [row.commit_step[place] for place in places]
        for place, step in zip(places, steps, strict=True):
            weights[number, place] = 1 / (len(set(steps)) * steps.count(step) * len(rows))
    return weights
