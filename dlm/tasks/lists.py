"""What all list tasks share: how a list is written, judged, and left open for infilling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlm.tasks.base import Template, Verdict
from dlm.tasks.faults import fault_of_list
from dlm.tasks.reading import kept, loose_list, strict_list
from dlm.tasks.rules import right_list


def render(items: Sequence[str]) -> str:
    """A list as it stands in prompts and answers."""
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def open_list(n: int, items: Sequence[str]) -> Template:
    """A list of ``n`` slots, brackets, quotes and commas given, each slot for one of ``items``."""
    return Template(('["', *['", "'] * (n - 1), '"]'), tuple(dict.fromkeys(items)))


@dataclass(frozen=True)
class ListQuestion:
    """What was asked of a list.

    Attributes:
        operation: its name; see :func:`dlm.tasks.rules.right_list`.
        x: the list.
        w: the newcomer of operations that have several right answers.
        target: one right answer.
    """

    operation: str
    x: list[str]
    w: str
    target: list[str]


def judge_list(asked: ListQuestion, output: str, read: Callable[[str], list[str]] = loose_list) -> Verdict:
    """Score an answer; ``read`` is the parser of the headline, and the error is named when what it read is wrong."""
    x, target = asked.x, asked.target
    y, exact = read(output), strict_list(output)
    right = right_list(asked.operation, x, asked.w, target, y)
    strict = exact is not None and right_list(asked.operation, x, asked.w, target, exact)
    # Prose without a list and without anybody from the question is no list, though it splits at its commas.
    legible = "[" in output or bool({*x, *target} & set(y))
    error = None if right else fault_of_list(x, target, y if legible else [])
    return Verdict(float(right), float(strict), error, kept(y))
