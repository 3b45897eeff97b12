"""List operations on a queue of names: who stands where (after the Waiting Line of ParallelBench, arXiv 2510.04767).

Prompts are one line, items single first names, positions count from 1, lists have 3 to 6 items. Operations with one
right answer keep their quality however many tokens are committed at once; those with several (shuffle and the random
ones) lose it, because the items of an answer depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlm.tasks.base import Draft, Instance, Stream, Verdict
from dlm.tasks.lists import ListQuestion, edited, judge_list, open_list, render, reordered
from dlm.tasks.people import NAMES
from dlm.tasks.reading import loose_list

# Operation -> what is asked. {w}: somebody who is not in the queue, {p}: a position.
OPERATIONS = {
    "copy": "Copy the list",
    "reverse": "Reverse the list",
    "sort": "Sort the list",
    "shuffle": "Shuffle the list",
    "replace_index": 'Replace item {p} by "{w}"',
    "replace_random": 'Replace any item by "{w}"',
    "insert_index": 'Insert "{w}" at position {p}',
    "insert_random": 'Insert "{w}" anywhere',
    "remove_index": "Remove item {p}",
    "remove_random": "Remove any item",
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
        operation = self.operation
        *x, w = stream.sample(NAMES, stream.between(3, 6) + 1)
        i = stream.below(len(x) + operation.startswith("insert")) if "_" in operation else 0
        target = reordered(stream, x) if operation == "shuffle" else edited(operation, x, w, i)
        meta = {"x": x, "w": w} if operation in ("replace_random", "insert_random") else {"x": x}
        prompt = f"{OPERATIONS[operation].format(w=w, p=i + 1)}: {render(x)}"
        return Draft(tuple(x), prompt, render(target), meta, open_list(len(target), [*x, *target]))

    def judge(self, instance: Instance, output: str) -> Verdict:
        meta = instance.meta
        return judge_list(
            ListQuestion(self.operation, meta["x"], meta.get("w", ""), loose_list(instance.target)), output
        )
