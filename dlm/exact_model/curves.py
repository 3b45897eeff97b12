"""Accuracy by tokens per step, from the closed forms: what ``dlm report`` draws over measured points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from dlm.exact_model import closed_forms as forms
from dlm.exact_model import trajectories
from dlm.exact_model.answers import right_answers
from dlm.exact_model.cells import LENGTHS, ONE_ANSWER

MOST = 7  # tokens per step: the slots of the longest list
OPEN = ("shuffle", "replace_random", "insert_random", "remove_random")
DECODINGS = ("drawn", "best")


@dataclass(frozen=True)
class CurvePoint:
    """A list task in infill form, lists of 3 to 6 items in equal parts, items of one token, a fixed schedule.

    Attributes:
        task: the task's name.
        decoding: ``drawn``: tokens are drawn from the marginals; ``best``: the most probable ones, ties at random.
        k: tokens per step, at places in random order.
        tokens_per_forward: slots / steps, mean over the lengths: the last step of a list may have fewer than ``k``.
        accuracy: mean over the lengths, of the answers that the task accepts.
    """

    task: str
    decoding: str
    k: int
    tokens_per_forward: float
    accuracy: float


def curves(operations: Iterable[str]) -> list[CurvePoint]:
    """The curves of these list tasks; tasks of other kinds have none."""
    return [
        _point(operation, decoding, k)
        for operation in dict.fromkeys(operations)
        if operation in (*OPEN, *ONE_ANSWER)
        for decoding in DECODINGS
        for k in range(1, MOST + 1)
    ]


def accuracy(operation: str, decoding: str, n: int, k: int) -> tuple[Fraction, int, int]:
    """Exact accuracy for lists of ``n``, slots, and steps."""
    x = [str(i) for i in range(n)]
    slots = n + operation.startswith("insert") - operation.startswith("remove")
    sizes, best = forms.blocks_of(slots, k), decoding == "best"
    if operation == "shuffle":
        found = forms.other_shuffle_in(sizes, best)
    elif operation == "replace_random":
        found = forms.replace_greedy_in(sizes) if best else forms.replace_in(sizes)
    elif operation in OPEN:
        answers = right_answers(operation, x, "w", ())
        found = trajectories.greedy(answers, sizes) if best else trajectories.drawn(answers, sizes)
    else:
        found = Fraction(1)
    return found, slots, len(sizes)


def _point(operation: str, decoding: str, k: int) -> CurvePoint:
    found = [accuracy(operation, decoding, n, k) for n in LENGTHS]
    speed = sum(slots / steps for _, slots, steps in found) / len(found)
    mean = sum((share for share, _, _ in found), Fraction(0)) / len(found)
    return CurvePoint(f"waiting_line/{operation}", decoding, k, speed, float(mean))
