"""The benchmark's list tasks: a queue of people with full names (after the Waiting Line of ParallelBench, arXiv
2510.04767; own wordings and names).

A question has four lines: the scene, the operation, the list, what to return.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dlm.errors import SettingsError
from dlm.tasks.base import SUITE_VERSION, Instance, Split, Stream, Verdict, instance_id
from dlm.tasks.lists import ListQuestion, judge_list, open_list, render
from dlm.tasks.people import POOL

SCENE = "You run the queue at a help desk."
UPDATED = "Return the updated list, nothing else."
# Operation -> what happens, what to return. {w}: the newcomer, {p}: a position, {base}: the number of the first place,
# {key}: the name that decides the order.
WORDING = {
    "copy": ("Note down these people in arrival order:", "Return the same list, nothing else."),
    "reverse": ("A colleague wrote the queue backwards:", "Return the list in reversed order, nothing else."),
    "sort": ("The queue must be ordered alphabetically by {key} name:", "Return the sorted list, nothing else."),
    "shuffle": (
        "For fairness the queue is put in a random order:",
        "Return a shuffled list that is not the same as the given one, nothing else.",
    ),
    "replace_index": ('Person number {p} (counting from {base}) gives their place to "{w}":', UPDATED),
    "replace_random": ('Exactly one person, your choice, gives their place to "{w}":', UPDATED),
    "insert_index": ('"{w}" joins so that they become number {p} (counting from {base}):', UPDATED),
    "insert_random": ('"{w}" joins anywhere in the queue:', UPDATED),
    "remove_index": ("Person number {p} (counting from {base}) has gone home:", UPDATED),
    "remove_random": ("Exactly one person, your choice, has gone home:", UPDATED),
}
NEWCOMER = ("replace_index", "replace_random", "insert_index", "insert_random")


@dataclass(frozen=True)
class Queue:
    """A drawn question: the list, the newcomer ("" where there is none), the 0-based place, one right answer."""

    x: list[str]
    w: str
    place: int
    target: list[str]


def draw(operation: str, n: int, stream: Stream) -> Queue:
    """A question with a list of ``n`` people."""
    *x, w = stream.sample(POOL, n + 1)
    while operation == "sort" and len({name.split()[0] for name in x}) < n:  # equal first names have no order
        *x, w = stream.sample(POOL, n + 1)
    i = stream.below(n + 1 if operation.startswith("insert") else n)
    if operation == "shuffle":
        target = stream.shuffled(x)
        while target == x:
            target = stream.shuffled(x)
    else:
        target = {
            "copy": list(x),
            "reverse": x[::-1],
            "sort": sorted(x),
            "replace": [*x[:i], w, *x[i + 1 :]],
            "insert": [*x[:i], w, *x[i:]],
            "remove": [*x[:i], *x[i + 1 :]],
        }[operation.partition("_")[0]]
    return Queue(x, w if operation in NEWCOMER else "", i, target)


@dataclass(frozen=True)
class PeopleQueue:
    """One of the ten operations on queues of people.

    Attributes:
        operation: a key of :data:`WORDING`.
        lengths: how long lists are; instance i has the (i mod their number)-th, so that 100 instances hold equal parts.
        group: first parts of the name.
        canvas: positions that hold any answer.
        shots: worked examples before the question: 1, the same one for all instances; 0, none; ``fresh``, for every
            instance one of its own, as the first version of the published benchmark has it.
        index_base: the number of the first place in questions about positions: 1, or 0 as first published. The question
            says which.
        compat: ``ours``; ``upstream`` keeps a published defect: ``sort`` asks for the order of last names, and the
            answer is in the order of full names.
    """

    operation: str
    lengths: tuple[int, ...] = (3, 4, 5, 6)
    group: str = "parallelbench/waiting_line"
    canvas: int = 32
    shots: int | str = 1
    index_base: int = 1
    compat: Literal["ours", "upstream"] = "ours"
    size: int = 100

    def __post_init__(self) -> None:
        check_shots(self.shots)
        if type(self.index_base) is not int or self.index_base not in (0, 1):
            raise SettingsError(f"index_base must be 0 or 1, got {self.index_base!r}")
        if self.compat not in ("ours", "upstream"):
            raise SettingsError(f"compat must be ours or upstream, got {self.compat!r}")

    @property
    def name(self) -> str:
        """``parallelbench/waiting_line/<operation>``."""
        return f"{self.group}/{self.operation}"

    @property
    def identity(self) -> dict[str, Any]:
        """The version of the generators."""
        return {"suite": SUITE_VERSION}

    def instance(self, index: int, split: Split = "test") -> Instance:
        """The ``index``-th question; it depends on suite version, task, split and index alone."""
        queue = draw(self.operation, self.lengths[index % len(self.lengths)], self._stream(split, index))
        meta = {"x": queue.x, "w": queue.w, "place": queue.place + self.index_base, "items": queue.target}
        prompt, target = self._asked(queue), render(queue.target)
        template = open_list(len(queue.target), [*queue.x, *queue.target])
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, target, meta,
                        self._shots(split, index), template)  # fmt: skip

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer by the validity sets of :mod:`dlm.tasks.rules`."""
        meta = instance.meta
        return judge_list(ListQuestion(self.operation, meta["x"], meta["w"], meta["items"]), output)

    def _stream(self, *address: object) -> Stream:
        return Stream(SUITE_VERSION, self.name, *address)

    def _shots(self, split: Split, index: int) -> tuple[tuple[str, str], ...]:
        if self.shots == 0:
            return ()
        stream = self._stream("shot", split, index) if self.shots == "fresh" else self._stream("shot")
        queue = draw(self.operation, stream.choice(self.lengths), stream)
        return ((self._asked(queue), render(queue.target)),)

    def _asked(self, queue: Queue) -> str:
        happens, wanted = WORDING[self.operation]
        key = "last" if self.compat == "upstream" else "first"
        line = happens.format(w=queue.w, p=queue.place + self.index_base, base=self.index_base, key=key)
        return "\n".join((SCENE, line, render(queue.x), wanted))


def check_shots(shots: int | str) -> None:
    """Refuse anything but 0, 1 and ``fresh``."""
    if isinstance(shots, bool) or shots not in (0, 1, "fresh"):
        raise SettingsError(f"shots must be 0, 1 or fresh, got {shots!r}")
