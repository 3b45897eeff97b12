"""Accuracy of a model on held-out task instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dlm import tasks
from dlm.api import generate
from dlm.engine.sampler import Sampler
from dlm.models import LanguageModel


@dataclass(frozen=True)
class Score:
    """Figures over ``n`` instances.

    Attributes:
        accuracy: share of right answers.
        forwards, tokens, tokens_per_forward: means of the counters of :class:`dlm.engine.result.Counts`.
        n: number of instances.
    """

    accuracy: float
    forwards: float
    tokens: float
    tokens_per_forward: float
    n: int


def evaluate_task(
    model: LanguageModel, task: str, sampler: Sampler, *, n: int = 100, max_new_tokens: int = 32, batch_size: int = 32
) -> Score:
    """Decode ``n`` held-out instances as chats and score the answers."""
    family = tasks.get(task)
    instances = [family.instance(i, "test") for i in range(n)]
    chats = [[{"role": "user", "content": instance.prompt}] for instance in instances]
    answers = generate(model, chats, sampler=sampler, max_new_tokens=max_new_tokens, batch_size=batch_size)
    counts = [answer.counts for answer in answers]
    return Score(
        accuracy=fmean(family.score(i, a.text) for i, a in zip(instances, answers, strict=True)),
        forwards=fmean(c.forwards for c in counts),
        tokens=fmean(c.tokens for c in counts),
        tokens_per_forward=fmean(c.tokens_per_forward for c in counts),
        n=n,
    )


def accuracies(model: LanguageModel, names: Sequence[str], sampler: Sampler, n: int) -> dict[str, float]:
    """Accuracy per task."""
    return {
        name: evaluate_task(model, name, sampler, n=n, max_new_tokens=tasks.get(name).canvas).accuracy for name in names
    }
