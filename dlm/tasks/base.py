"""What a task is: instances that are asked of a model, and a judge of the answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

SUITE_VERSION = 1
Split = Literal["train", "test"]
T = TypeVar("T")


class Stream:
    """A stream of random numbers addressed by its key: SHA-256 over (key, counter).

    The same key gives the same numbers on every machine and Python version, and no stream depends on another.
    """

    def __init__(self, *key: object) -> None:
        self._key = repr(key).encode()
        self._counter = 0
        self._words: list[int] = []

    def word(self) -> int:
        """The next 64 bits."""
        if not self._words:
            digest = hashlib.sha256(self._key + self._counter.to_bytes(8, "little")).digest()
            self._words = [int.from_bytes(digest[i : i + 8], "little") for i in (24, 16, 8, 0)]
            self._counter += 1
        return self._words.pop()

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return self.word() % n

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        return low + self.below(high - low + 1)

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return (self.word() >> 11) * 2.0**-53

    def choice(self, items: Sequence[T]) -> T:
        """One of ``items``."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], n: int) -> list[T]:
        """``n`` different entries of ``items`` in random order."""
        pool = list(items)
        for i in range(n):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:n]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All of ``items`` in random order."""
        return self.sample(items, len(items))


@dataclass(frozen=True)
class Draft:
    """What a task draws: the question, one right answer, and the content that decides the split."""

    content: object
    prompt: str
    target: str
    meta: dict[str, Any] = field(default_factory=dict)
    template: Template | None = None


@dataclass(frozen=True)
class Template:
    """An answer with open slots, for decoding in infill form (ParallelBench, arXiv 2510.04767).

    Attributes:
        pieces: the given text before, between and behind the slots; one more than there are slots.
        items: what a slot may hold. As many mask tokens stand for a slot as the longest of them has tokens.
    """

    pieces: tuple[str, ...]
    items: tuple[str, ...]


@dataclass(frozen=True)
class Instance:
    """One question.

    Attributes:
        instance_id: hash of prompt and answer specification.
        task: the task's name.
        prompt: the question, plain text: the last turn of the user.
        target: one right answer.
        meta: what the scorer needs.
        shots: worked examples that come before it, as (question, answer).
        template: the answer with open slots; None: the task has no infill form.
    """

    instance_id: str
    task: str
    prompt: str
    target: str
    meta: dict[str, Any]
    shots: tuple[tuple[str, str], ...] = ()
    template: Template | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation up to the question: worked examples, then the prompt."""
        turns = [turn for shot in self.shots for turn in zip(("user", "assistant"), shot, strict=True)]
        return [{"role": role, "content": content} for role, content in [*turns, ("user", self.prompt)]]


@dataclass(frozen=True)
class Verdict:
    """What a task says of an answer.

    Attributes:
        score: the headline, in [0, 1].
        strict: the same with the strict parser; None where the task has only one.
        error: in one word what is wrong; None: nothing.
        parsed: what was read out of the answer, as plain JSON values; None: nothing.
        parts: further figures by name (the components of a text's score, say).
    """

    score: float
    strict: float | None = None
    error: str | None = None
    parsed: Any = None
    parts: dict[str, float] = field(default_factory=dict)


class Judge(Protocol):
    """What tasks and their families have in common."""

    @property
    def name(self) -> str:
        """``group/task``."""
        ...

    @property
    def canvas(self) -> int:
        """Positions to fill that hold any answer, unless the user wants another number. Of generated questions they are
        counted in the packaged model's tokens."""
        ...

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer: any text, of any length."""
        ...


class Task(Judge, Protocol):
    """What the evaluation asks of a task."""

    @property
    def size(self) -> int | None:
        """How many instances there are; None: as many as one likes."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What questions and scores depend on beside the name and the options: hashes of data files, versions of
        scorers. Plain JSON values."""
        ...

    def instance(self, index: int) -> Instance:
        """The ``index``-th question, counted from 0; the same on every machine."""
        ...


class Family(Judge, Protocol):
    """A generator and a scorer, under one name."""

    def draw(self, stream: Stream) -> Draft:
        """A fresh question."""
        ...


@dataclass(frozen=True)
class Generated:
    """A family with splits: an instance depends on (suite version, task, split, index) and nothing else.

    A tenth of all contents, by hash, belong to the test split and never occur in training.
    """

    family: Family

    @property
    def name(self) -> str:
        """Name of the task, ``group/task``."""
        return self.family.name

    @property
    def canvas(self) -> int:
        """Positions that hold any answer, counted in the packaged model's tokens."""
        return self.family.canvas

    @property
    def size(self) -> int | None:
        """None: there is no end of them."""
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """The version of the generators."""
        return {"suite": SUITE_VERSION}

    def instance(self, index: int, split: Split = "test") -> Instance:
        """The ``index``-th instance of a split."""
        return self.draw(split, index)

    def draw(self, split: Split, *address: object) -> Instance:
        """The instance at any address of a split."""
        attempt = 0
        while True:
            draft = self.family.draw(Stream(SUITE_VERSION, self.name, split, *address, attempt))
            if split_of(self.name, draft.content) == split:
                key = instance_id(self.name, draft.prompt, draft.meta)
                return Instance(key, self.name, draft.prompt, draft.target, draft.meta, template=draft.template)
            attempt += 1

    def judge(self, instance: Instance, output: str) -> Verdict:
        """What to say of an answer."""
        return self.family.judge(instance, output)

    def score(self, instance: Instance, output: str) -> float:
        """1.0 when ``output`` answers ``instance``, else 0.0."""
        return self.judge(instance, output).score


def instance_id(task: str, prompt: str, meta: dict[str, Any]) -> str:
    """Hash of a question and of what is right, 16 hexadecimal digits."""
    return hashlib.sha256(repr((task, prompt, meta)).encode()).hexdigest()[:16]


def split_of(task: str, content: object) -> Split:
    """The split a content belongs to."""
    digest = hashlib.sha256(repr((SUITE_VERSION, task.split("/")[0], content)).encode()).digest()
    return "test" if digest[0] < 26 else "train"


def longest_answer(task: Task, tokenizer: Any, n: int) -> int:
    """Tokens of the longest right answer among the first ``n`` instances; to compare with the canvas.

    Args:
        tokenizer: has ``encode(text) -> list of ids``, as a :class:`dlm.models.LanguageModel` and a transformers
            tokenizer have. Ids that a tokenizer adds to every text are counted with it.
        n: instances to look at, at most as many as the task has.
    """
    count = n if task.size is None else min(n, task.size)
    return max((len(tokenizer.encode(task.instance(i).target)) for i in range(count)), default=0)
