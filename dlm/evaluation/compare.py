"""One sampler on the held-out questions of one task, as one line of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from dlm import tasks
from dlm.api import Generation, Message, generate
from dlm.engine.interfaces import Cache
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.evaluation.intervals import wilson
from dlm.models import LanguageModel
from dlm.tasks import Generated, Instance

WARM_UP = 4  # questions decoded before anything is timed


@dataclass(frozen=True)
class Decoding:
    """What is the same for every sampler of a comparison.

    Attributes:
        model, cache, drafter, seed: as in :func:`dlm.generate`.
        batch_size: most rows decoded together.
    """

    model: LanguageModel
    cache: Cache | None = None
    drafter: Any = None
    seed: int = 0
    batch_size: int = 32


@dataclass(frozen=True)
class Questions:
    """The held-out questions of a task, asked as chats.

    Attributes:
        task: scores the answers.
        instances: the questions, split "test".
        max_new_tokens: positions to fill per question.
    """

    task: Generated
    instances: tuple[Instance, ...]
    max_new_tokens: int

    @classmethod
    def of(cls, name: str, n: int, max_new_tokens: int | None = None) -> Questions:
        """The first ``n`` held-out questions; None takes a canvas that holds any answer of the task.

        Raises:
            SettingsError: an unknown task, ``n`` below 1.
        """
        task = tasks.get(name)
        if n < 1:
            raise SettingsError(f"n must be at least 1, got {n}")
        canvas = task.canvas if max_new_tokens is None else max_new_tokens
        return cls(task, tuple(task.instance(i, "test") for i in range(n)), canvas)

    @property
    def chats(self) -> list[list[Message]]:
        """The questions as a user's messages."""
        return [[{"role": "user", "content": instance.prompt}] for instance in self.instances]


@dataclass(frozen=True)
class Line:
    """Figures of one sampler on one task; means are over questions.

    Attributes:
        task, sampler: names; the sampler's with the settings it was asked for.
        n: number of questions.
        max_new_tokens: positions that were filled per question.
        accuracy, accuracy_low, accuracy_high: share of right answers, and its 95 % interval (Wilson).
        forwards, token_forwards, tokens, tokens_per_forward, canvas_tokens_per_forward, positions_cut: means of
            :class:`dlm.engine.result.Counts`.
        overhead_ms_per_step: milliseconds outside the forward, summed / forwards, summed. A row bears its share of
            the time of its batch, so this falls as batches grow.
        outside_share: seconds outside the forward / all seconds.
        seconds: wall time of all steps.
    """

    task: str
    sampler: str
    n: int
    max_new_tokens: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    forwards: float
    token_forwards: float
    tokens: float
    tokens_per_forward: float
    canvas_tokens_per_forward: float
    overhead_ms_per_step: float
    outside_share: float
    seconds: float
    positions_cut: float = 0.0


@dataclass(frozen=True)
class Refused:
    """A sampler that could not run on a task.

    Attributes:
        task, sampler: names.
        reason: what its error said.
    """

    task: str
    sampler: str
    reason: str


def measure(questions: Questions, label: str, sampler: Sampler, how: Decoding) -> Line:
    """Decode all questions with a sampler and score the answers.

    Raises:
        SettingsError: the sampler's settings do not fit the questions or the model.
    """
    answers = _answers(questions.chats, questions.max_new_tokens, sampler, how)
    right = sum(questions.task.score(i, a.text) for i, a in zip(questions.instances, answers, strict=True))
    counts, n = [answer.counts for answer in answers], len(answers)
    outside, seconds = sum(c.seconds_sampler for c in counts), sum(c.seconds for c in counts)
    forwards = sum(c.forwards for c in counts)
    low, high = wilson(right, n)
    return Line(
        task=questions.task.name,
        sampler=label,
        n=n,
        max_new_tokens=questions.max_new_tokens,
        accuracy=right / n,
        accuracy_low=low,
        accuracy_high=high,
        forwards=forwards / n,
        token_forwards=fmean(c.token_forwards for c in counts),
        tokens=fmean(c.tokens for c in counts),
        tokens_per_forward=fmean(c.tokens_per_forward for c in counts),
        canvas_tokens_per_forward=fmean(c.canvas_tokens_per_forward for c in counts),
        overhead_ms_per_step=1000 * outside / forwards if forwards else 0.0,
        outside_share=outside / seconds if seconds else 0.0,
        seconds=seconds,
        positions_cut=fmean(c.positions_cut for c in counts),
    )


def warm_up(questions: Questions, sampler: Sampler, how: Decoding) -> None:
    """Decode a few questions and forget them, so that no sampler's figures hold what only the first run costs."""
    _answers(questions.chats[:WARM_UP], questions.max_new_tokens, sampler, how)


def ranked(lines: Sequence[Line]) -> list[Line]:
    """The best first: by accuracy, then by tokens per forward, then by name."""
    return sorted(lines, key=lambda line: (-line.accuracy, -line.tokens_per_forward, line.sampler))


def _answers(chats: list[list[Message]], new: int, sampler: Sampler, how: Decoding) -> list[Generation]:
    return generate(
        how.model, chats, sampler=sampler, cache=how.cache, drafter=how.drafter,
        max_new_tokens=new, seed=how.seed, batch_size=how.batch_size,
    )  # fmt: skip
