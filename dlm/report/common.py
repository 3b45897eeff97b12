"""Which points of a task answered the same questions: what is compared, and on which of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

LEAST = 0.5  # share of the questions of a task's fullest compared point that the common ones must make
LOOKED_AT = 20  # different sets of questions that are tried as a beginning: the largest and the most frequent


def common_questions(asked: Sequence[frozenset[int]]) -> frozenset[int]:
    """The questions on which points are compared, given those that each has answered: common to as many points as
    possible and as many as possible (the product counts), but no small part of what those points answered."""
    frequent = Counter(questions for questions in asked if questions)
    sets = [questions for questions, _ in frequent.most_common(LOOKED_AT)]
    sets = list(dict.fromkeys([*sets, *sorted(frequent, key=len, reverse=True)[:LOOKED_AT]]))

    def worth(common: frozenset[int]) -> int:
        return len(common) * sum(n for questions, n in frequent.items() if common <= questions)

    best: frozenset[int] = frozenset()
    for start in sets:
        common, fullest = start, len(start)
        for other in sorted(sets, key=lambda o: (-len(o & start), -len(o), sorted(o)[:1])):
            both, larger = common & other, max(fullest, len(other))
            if len(both) >= LEAST * larger and worth(both) >= worth(common):
                common, fullest = both, larger
        if worth(common) > worth(best):
            best = common
    return best
