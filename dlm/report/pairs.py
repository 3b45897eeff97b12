"""Two points, or two settings over all their tasks, on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dlm.errors import SettingsError
from dlm.report.figures import Figures
from dlm.report.statistics import Paired, paired
from dlm.words import meant


@dataclass(frozen=True)
class PairLine:
    """A paired test on one task, or on all of them (``task`` is then ``all``: questions pooled)."""

    a: str
    b: str
    task: str
    test: Paired
    left_out: int = 0  # answers that only one of them has


def compare(figures: Sequence[Figures], names: Sequence[str]) -> list[PairLine]:
    """Test two of the report's points or settings against each other, task by task and pooled. ``names``: two of: a
    folder of results, its name, a hash, ``method setting`` as the tables print it, or a method that has one setting.
    Raises SettingsError: not two names, a name that fits nothing or several settings, no question in common."""
    if len(names) != 2:
        raise SettingsError(f"pair takes two names, as pair=[A,B]; got {len(names)}")
    a, b = (_chosen(figures, name) for name in names)
    lines, pools = [], []
    for task in sorted(set(a) & set(b)):
        left, right = a[task].result.columns, b[task].result.columns
        shared, i, j = np.intersect1d(left.keys, right.keys, return_indices=True)
        if len(shared):
            columns = (left["score"][i], right["score"][j], left.instance[i], left["forwards"][i], right["forwards"][j])
            alone = len(left) + len(right) - 2 * len(shared)
            lines.append(PairLine(names[0], names[1], task, paired(*columns[:3], columns[3:]), alone))
            pools.append(columns)
    if not lines:
        raise SettingsError(f"{names[0]} and {names[1]} have no question in common: name runs of the same task")
    if len(lines) > 1:
        a_, b_, questions, *forwards = (np.concatenate(columns) for columns in zip(*pools, strict=True))
        lines.append(PairLine(names[0], names[1], "all", paired(a_, b_, questions, (forwards[0], forwards[1]))))
    return lines


def _chosen(figures: Sequence[Figures], name: str) -> dict[str, Figures]:
    """Task -> the point a name stands for."""
    path = Path(name).expanduser()
    if path.is_dir():
        inside = path.resolve()
        found = [
            f for f in figures if inside == f.result.folder.resolve() or inside in f.result.folder.resolve().parents
        ]
    else:
        found = [f for f in figures if name in (f.result.folder.name, f.row.hash)]
        found = found or [f for f in figures if f.place.label == name] or [f for f in figures if f.row.method == name]
    if not found:
        known = sorted({f.place.label for f in figures})
        listed = "; ".join(known[:8]) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
        near = meant(name, known)
        raise SettingsError(f"pair names {name!r}, which is no folder and no setting here{near}; known are {listed}")
    settings = sorted({f.place.label for f in found})
    if len(settings) > 1 or len({f.row.task for f in found}) < len(found):
        raise SettingsError(f"pair names {name!r}, which has several settings: say which, as '{settings[0]}'")
    return {f.row.task: f for f in found}
