"""In which order a canvas was filled: correlations with reading order, all samples at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Steps = NDArray[np.int32]
Floats = NDArray[np.float64]

LATER16 = 32767  # the largest number of 16 bits
BATCH = 8192  # samples counted at once; more would not stay near the processor
NOTHING = -1  # no step fixed the position


@dataclass(frozen=True)
class Order:
    """Order statistics, one value a sample; NaN where they are undefined (fewer than two steps)."""

    kendall: Floats  # [N] Kendall's tau-b of step against position. 1: left to right, -1: right to left.
    spearman: Floats  # [N] Spearman's rho of the same, ties by their mean rank
    # [N] share of commits that were the leftmost open position when their step began. A step can commit one such
    # position, so k positions a step give at most 1/k.
    ar_ness: Floats
    # [N] share of commits that left nothing open on their left when their step ended. 1 for any number of positions a
    # step, if taken from the left.
    left_to_right: Floats


def order_of(steps: Steps, first: NDArray[np.int64] | None = None) -> Order:
    """Order statistics of [N, M] commit steps, positions of step -1 left out. ``first``: [N] keep only so many
    committed positions, from the left: the content without its filler."""
    steps, count = packed(steps)
    if first is not None:
        count = np.minimum(count, first)
        steps = np.where(np.arange(steps.shape[1]) < count[:, None], steps, NOTHING)
    return Order(kendall(steps, count), spearman(steps, count), *_leftmost(steps, count))


def orders_of(tables: Sequence[Steps], firsts: Sequence[NDArray[np.int64]]) -> list[tuple[Order, Order]]:
    """For each table of [N, M] commit steps its order over the whole canvas and over the content (``first``, [N]).

    Tables of one width are counted together: many small ones would spend their time on calls.
    """
    found: dict[int, tuple[Order, Order]] = {}
    widths: dict[int, list[int]] = {}
    for i, table in enumerate(tables):
        widths.setdefault(table.shape[1], []).append(i)
    for members in widths.values():
        batch: list[int] = []
        for place, i in enumerate(members):
            batch.append(i)
            if sum(len(tables[j]) for j in batch) >= BATCH or place == len(members) - 1:
                steps, first = np.concatenate([tables[j] for j in batch]), np.concatenate([firsts[j] for j in batch])
                ends = np.cumsum([len(tables[j]) for j in batch])[:-1]
                orders = order_of(steps), order_of(steps, first)
                parts = [[np.split(getattr(o, f.name), ends) for f in fields(Order)] for o in orders]
                for k, j in enumerate(batch):
                    whole, content = (Order(*(column[k] for column in columns)) for columns in parts)
                    found[j] = whole, content
                batch = []
    return [found[i] for i in range(len(tables))]


def packed(steps: Steps) -> tuple[Steps, NDArray[np.int64]]:
    """Committed positions moved to the left, in reading order, -1 behind them; and how many there are, [N]."""
    given = steps < 0
    count: NDArray[np.int64] = steps.shape[1] - np.count_nonzero(given, axis=1)
    if given.any():
        steps = np.take_along_axis(steps, np.argsort(given, axis=1, kind="stable"), axis=1)
    return np.where(np.arange(steps.shape[1]) < count[:, None], steps, NOTHING), count


def histogram(steps: Steps) -> NDArray[np.int64]:
    """How many positions each step fixed, [N, steps]."""
    n, deep = len(steps), int(steps.max(initial=NOTHING)) + 1
    # Column 0 takes what no step fixed.
    cells = (steps + 1) + np.arange(n)[:, None] * (deep + 1)
    counts: NDArray[np.int64] = np.bincount(cells.ravel(), minlength=n * (deep + 1)).reshape(n, deep + 1)[:, 1:]
    return counts


def kendall(steps: Steps, count: NDArray[np.int64]) -> Floats:
    """Tau-b of packed steps against position: (concordant - discordant) / sqrt(pairs x pairs of unequal steps)."""
    kind = np.int16 if steps.max(initial=0) < LATER16 else np.int32
    rows: NDArray[np.int32] = np.ascontiguousarray(steps.T).astype(kind)  # positions first: long rows compare fast
    # Nothing is later than what is left out.
    behind = np.where(rows < 0, np.array(np.iinfo(kind).max, dtype=kind), rows)
    balances = np.zeros(rows.shape, dtype=np.int16)
    for gap in range(1, len(rows)):
        balances[gap:] += rows[gap:] > rows[:-gap]
        balances[gap:] -= behind[gap:] < behind[:-gap]
    balance = balances.sum(axis=0, dtype=np.int64)
    pairs = count * (count - 1) / 2
    together = histogram(steps)
    unequal = pairs - (together * (together - 1) / 2).sum(axis=1)
    return _ratio(balance.astype(np.float64), np.sqrt(pairs * unequal))


def spearman(steps: Steps, count: NDArray[np.int64]) -> Floats:
    """Rho of packed steps against position: Pearson's correlation of the ranks."""
    if not steps.size:
        return np.full(len(steps), np.nan)
    together = histogram(steps)
    before = np.cumsum(together, axis=1) - together
    rank_of_step = before + (together - 1) / 2  # mean rank of those that share a step, counted from 0
    middle = (count - 1)[:, None] / 2
    inside = steps >= 0
    ranks = np.take_along_axis(rank_of_step, np.maximum(steps, 0), axis=1) if together.size else steps * 0.0
    x = np.where(inside, np.arange(steps.shape[1]) - middle, 0.0)
    y = np.where(inside, ranks - middle, 0.0)
    return _ratio((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def _leftmost(steps: Steps, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """``ar_ness`` and ``left_to_right`` of packed steps."""
    latest = np.maximum.accumulate(steps, axis=1)
    before = np.concatenate([np.full((len(steps), 1), NOTHING, dtype=np.int32), latest], axis=1)[:, : steps.shape[1]]
    inside = steps >= 0
    alone = np.count_nonzero(inside & (steps > before), axis=1)
    joint = np.count_nonzero(inside & (steps >= before), axis=1)
    return _ratio(alone, count), _ratio(joint, count)


def _ratio(above: NDArray, below: NDArray) -> Floats:
    """Quotients; NaN over 0."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
