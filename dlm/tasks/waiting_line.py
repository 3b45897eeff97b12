"""List operations on a queue of names: who stands where (after the Waiting Line of ParallelBench, arXiv 2510.04767).

Prompts are one line, items single first names, positions count from 1, lists have 3 to 6 items. Operations with one
right answer keep their quality however many tokens are committed at once; those with several (shuffle and the random
ones) lose it, because the items of an answer depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlm.tasks.base import Draft, Instance, Stream, Verdict
from dlm.tasks.lists import ListQuestion, judge_list, open_list, render
from dlm.tasks.reading import loose_list

# fmt: off
NAMES = [
    "Anna", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jack",
    "Kate", "Leo", "Mia", "Nick", "Olga", "Paul", "Quinn", "Rosa", "Sam", "Tina",
    "Ulf", "Vera", "Walt", "Xenia", "Yara", "Zoe", "Adam", "Bella", "Carl", "Dora",
    "Emil", "Fay", "Greg", "Hana", "Ivan", "Jane", "Kurt", "Lena", "Max", "Nora",
    "Otto", "Pia", "Rolf", "Sara", "Tom", "Uma", "Vito", "Wanda", "Yuri", "Zara",
    "Alex", "Beth", "Cody", "Dina", "Eric", "Flora", "Gus", "Helen", "Igor", "Judy",
    "Karl", "Lucy", "Mark", "Nina",
]
# fmt: on


def _pick(stream: Stream) -> tuple[list[str], str]:
    """A queue and somebody who is not in it."""
    *queue, other = stream.sample(NAMES, stream.between(3, 6) + 1)
    return queue, other


Operation = Callable[[Stream, list[str], str], tuple[str, list[str], dict[str, Any]]]


def _copy(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    return "Copy the list", list(x), {}


def _reverse(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    return "Reverse the list", x[::-1], {}


def _sort(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    return "Sort the list", sorted(x), {}


def _shuffle(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    y = stream.shuffled(x)
    while y == x:
        y = stream.shuffled(x)
    return "Shuffle the list", y, {}


def _replace_index(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    i = stream.below(len(x))
    return f'Replace item {i + 1} by "{w}"', [*x[:i], w, *x[i + 1 :]], {}


def _replace_random(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    i = stream.below(len(x))
    return f'Replace any item by "{w}"', [*x[:i], w, *x[i + 1 :]], {"w": w}


def _insert_index(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    i = stream.below(len(x) + 1)
    return f'Insert "{w}" at position {i + 1}', [*x[:i], w, *x[i:]], {}


def _insert_random(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    i = stream.below(len(x) + 1)
    return f'Insert "{w}" anywhere', [*x[:i], w, *x[i:]], {"w": w}


def _remove_index(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    i = stream.below(len(x))
    return f"Remove item {i + 1}", [*x[:i], *x[i + 1 :]], {}


def _remove_random(stream: Stream, x: list[str], w: str) -> tuple[str, list[str], dict[str, Any]]:
    i = stream.below(len(x))
    return "Remove any item", [*x[:i], *x[i + 1 :]], {}


OPERATIONS: dict[str, Operation] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "shuffle": _shuffle,
    "replace_index": _replace_index,
    "replace_random": _replace_random,
    "insert_index": _insert_index,
    "insert_random": _insert_random,
    "remove_index": _remove_index,
    "remove_random": _remove_random,
}


@dataclass(frozen=True)
class WaitingLine:
    """One of the ten operations."""

    operation: str
    canvas: int = 32

    @property
    def name(self) -> str:
        return f"waiting_line/{self.operation}"

    def draw(self, stream: Stream) -> Draft:
        x, w = _pick(stream)
        instruction, target, meta = OPERATIONS[self.operation](stream, x, w)
        template = open_list(len(target), [*x, *target])
        return Draft(tuple(x), f"{instruction}: {render(x)}", render(target), {"x": x, **meta}, template)

    def judge(self, instance: Instance, output: str) -> Verdict:
        meta = instance.meta
        return judge_list(
            ListQuestion(self.operation, meta["x"], meta.get("w", ""), loose_list(instance.target)), output
        )
