"""What is wrong with a wrong list, in one word."""

from __future__ import annotations

from collections import Counter

FAULTS = ("unparsable", "unchanged", "wrong_count", "duplicate", "chimera", "foreign", "wrong_position", "wrong")


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
