"""What may be promised of a setting: money that grows while it does not lose more than a margin.

The loss of a question is the reference's score less the setting's, in [-1, 1]. Against the claim "the mean loss is at
least ``margin``" a gambler stakes a share of what he has on every question: ``1 + stake * (margin - loss)``. Were the
claim true, he would not gain on average whatever he staked, so that he ever reaches 1 / level has a probability of at
most ``level`` (Ville; betting after Waudby-Smith and Ramdas, arXiv 2010.09686). He may look after every question and
stop when he likes. Several settings share ``delta``, each with ``delta`` / their number (learn then test, arXiv
2110.01052). Nothing here knows how the settings were found: that may depend on the choosing part in any way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STAKES = 48  # gamblers, each with a stake of his own: what they have together is what counts
SCALE = 10_000  # parts of 1 in which intervals are given
UNSEEN = 0.25  # lost answers that are added to what the choosing part showed, when it is asked how the rest will go
CERTIFIED, REJECTED, UNDECIDED, OPEN = "certified", "rejected", "undecided", "open"


def _stakes(margin: float) -> Floats:
    """[K] From nothing to everything, dense at both ends (the arcsine law, which is nowhere far from the best)."""
    angles = (np.arange(STAKES) + 0.5) * np.pi / (2 * STAKES)
    stakes: Floats = np.sin(angles) ** 2 / (1 - margin)
    return stakes


def _gains(losses: Floats, margin: float) -> Floats:
    """[..., K] What a question adds to the logarithm of each gambler's money."""
    gains: Floats = np.log1p(_stakes(margin) * (margin - losses[..., None]))
    return gains


def _together(logs: Floats) -> Floats:
    """The logarithm of the sum over gamblers."""
    most = logs.max(axis=-1, keepdims=True)
    summed: Floats = most[..., 0] + np.log(np.exp(logs - most).sum(axis=-1))
    return summed


def _total(losses: Floats, margin: float) -> Floats:
    """[K] What all questions add; most losses are the same few numbers."""
    values, counts = np.unique(losses, return_counts=True)
    total: Floats = counts @ _gains(values, margin)
    return total


def log_wealth(choosing: Floats, certifying: Floats, margin: float) -> Floats:
    """[N] The logarithm of the money after each certifying question, from 0. The choosing part decides how it is
    shared out among the gamblers before the first one."""
    shares = _total(choosing, margin)
    return _together(shares + np.cumsum(_gains(certifying, margin), axis=0)) - _together(shares)


def needed(margin: float, level: float, choosing: int) -> int:
    """Certifying questions that it takes when none is lost, in either part."""
    gain, goal = _gains(np.zeros(()), margin), log(1 / level)
    few, many = 0, ceil(2 * goal / float(gain.max())) + choosing + 64
    while many - few > 1:
        middle = (few + many) // 2
        money = float(_together((choosing + middle) * gain) - _together(choosing * gain))
        few, many = (few, middle) if money >= goal else (middle, many)
    return many


def planned(margin: float, level: float, lost: float, won: float) -> float:
    """Certifying questions that it takes on average (by Kelly's stake) where these shares of answers are lost and won;
    infinite where the loss is the margin or more."""
    growth = (1 - lost - won) * _gains(np.zeros(()), margin)
    growth = growth + lost * _gains(np.ones(()), margin) + won * _gains(-np.ones(()), margin)
    return log(1 / level) / best if (best := float(growth.max())) > 1e-9 and lost - won < margin else float("inf")


def prospect(choosing: Floats, margin: float, level: float, most: int) -> float:
    """How much of the money it takes would be there if ``most`` certifying questions went as the choosing ones did, and
    a quarter of an answer more were lost: 1 or more is enough."""
    gains = _total(choosing, margin)
    each = (gains + UNSEEN * _gains(np.ones(()), margin)) / (len(choosing) + UNSEEN)
    return float(_together(gains + most * each) - _together(gains)) / log(1 / level)


def shortlist(costs: Sequence[float], prospects: Sequence[float], size: int) -> list[int]:
    """Which candidates are certified, cheapest first: of those with good prospects the cheapest, the dearest (the
    safest, as a rule), and some between, nearer to the cheap end; then the most promising of the rest. What is cheap
    and lost nothing among few questions was often lucky, so the cheapest ones alone would be a bad choice."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -prospects[i], i))
    good = [i for i in order if prospects[i] >= 1]
    places = sorted({round((k / max(1, size - 1)) ** 2 * (len(good) - 1)) for k in range(size)}) if good else []
    taken = [good[place] for place in places]
    rest = [i for i in order if i not in taken]
    taken += sorted(rest, key=lambda i: (-prospects[i], costs[i], i))[: size - len(taken)]
    return [i for i in order if i in taken]


@dataclass(frozen=True)
class Verdict:
    """What the certifying part says of a candidate."""

    # ``certified``; ``rejected`` (it loses more than the margin, at the same level); ``undecided`` (too few questions
    # are left to certify it); ``open`` (more questions are to be asked)
    status: str
    n: int  # questions that it took
    lost: int  # of these, that the reference alone has right, or has better
    won: int  # the other way round
    loss: float  # mean
    # low, high: where the mean loss is, each end wrong with probability ``level`` at most; the upper ends of all
    # candidates hold together with probability 1 - delta
    low: float
    high: float
    log_wealth: float  # log(1 / level) certifies


def verdict(choosing: Floats, certifying: Floats, margin: float, level: float, most: int) -> Verdict:
    """Read the certifying questions one by one up to the first at which something is decided; ``most``: as many as
    there will ever be."""
    goal, n = log(1 / level), len(certifying)
    shares = _total(choosing, margin)
    gains, start = shares + np.cumsum(_gains(certifying, margin), axis=0), _together(shares)
    money = _together(gains) - start
    left = (most - 1 - np.arange(n))[:, None] * _gains(np.zeros(()), margin)
    reachable = _together(gains + left) - start
    against = log_wealth(-choosing, -certifying, -margin)
    found = {CERTIFIED: money >= goal, REJECTED: against >= goal, UNDECIDED: reachable < goal}
    first = {status: int(np.argmax(where)) + 1 for status, where in found.items() if where.any()}
    status = min(first, key=lambda name: first[name], default=OPEN)
    seen = certifying[: first.get(status, n)]
    wealth = float(money[len(seen) - 1]) if len(seen) else 0.0
    mean = float(seen.mean()) if len(seen) else float("nan")
    lost, won = int((seen > 0).sum()), int((seen < 0).sum())
    return Verdict(status, len(seen), lost, won, mean, *interval(seen, level, choosing), wealth)


def interval(losses: Floats, level: float = 0.025, choosing: Floats | None = None) -> tuple[float, float]:
    """Where the mean of the [N] losses is, whenever one stops: each end is wrong with probability ``level`` at most."""
    before = np.zeros(0) if choosing is None else choosing
    return -_above(-losses, level, -before), _above(losses, level, before)


def _above(losses: Floats, level: float, choosing: Floats) -> float:
    """The least margin (in ten thousandths) that the mean is certified to be below."""
    few, many = -SCALE, SCALE
    while many - few > 1:
        middle = (few + many) // 2
        shares = _total(choosing, middle / SCALE)
        money = float(_together(shares + _total(losses, middle / SCALE)) - _together(shares))
        few, many = (few, middle) if money >= log(1 / level) else (middle, many)
    return many / SCALE
