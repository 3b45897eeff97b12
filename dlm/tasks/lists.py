"""What all list tasks share: how a list is changed, written, judged, and left open for infilling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlm.tasks.base import Stream, Template, Verdict
from dlm.tasks.reading import kept, loose_list, strict_list
from dlm.tasks.rules import right_list

FAULTS = ("unparsable", "unchanged", "wrong_count", "duplicate", "chimera", "foreign", "wrong_position", "wrong")


def edited(operation: str, x: list[str], w: str, i: int) -> list[str]:
    """The list ``x`` after an operation that is no shuffle: at the place ``i`` (from 0), with the newcomer ``w``."""
    return {
        "copy": x,
        "reverse": x[::-1],
        "sort": sorted(x),
        "replace": [*x[:i], w, *x[i + 1 :]],
        "insert": [*x[:i], w, *x[i:]],
        "remove": [*x[:i], *x[i + 1 :]],
    }[operation.partition("_")[0]]


def reordered(stream: Stream, x: list[str]) -> list[str]:
    """A random other order of ``x``."""
    y = stream.shuffled(x)
    while y == x:
        y = stream.shuffled(x)
    return y


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


def fault_of_list(x: list[str], target: list[str], y: list[str]) -> str:
    """The first of :data:`FAULTS` that applies to ``y``, a wrong answer for the list ``x``.

    ``unparsable``: nothing was read out (``y`` is empty). ``unchanged``: the list as it was asked. ``wrong_count``: too
    many or too few items. ``duplicate``: an item more often than it may be there. ``chimera``: the first name of one
    item and the last name of another, as when two drafts of the same slot are committed at once; full names only.
    ``foreign``: any other item that was never there. ``wrong_position``: the right items or a right edit, at a wrong
    place. ``wrong``: the rest.
    """
    if not y:
        return "unparsable"
    if y == x:
        return "unchanged"
    if len(y) != len(target):
        return "wrong_count"
    known, most = set(x) | set(target), Counter(x) | Counter(target)
    if any(count > most[item] for item, count in Counter(y).items() if item in known):
        return "duplicate"
    strange = [item for item in y if item not in known]
    if strange:
        return "chimera" if any(_chimera(item, known) for item in strange) else "foreign"
    newcomers = set(target) - set(x)
    return "wrong_position" if newcomers <= set(y) else "wrong"


def _chimera(item: str, known: set[str]) -> bool:
    """Whether ``item``, not itself known, has the first name of a known item and the last name of another."""
    if item in known or item.count(" ") != 1:
        return False
    names = [other.split(" ") for other in known if other.count(" ") == 1]
    first, last = item.split(" ")
    return first in {name[0] for name in names} and last in {name[1] for name in names}
