"""PBx of published curves, for those who have them as a table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from math import isfinite
from pathlib import Path

from dlm.errors import SettingsError
from dlm.report import pbx
from dlm.report.tables import Sheet, number

COLUMNS = ("method", "kind", "speed", "score")
KINDS = ("static", "adaptive")


def published(path: Path, x: Sequence[float]) -> Sheet:
    """A line per method of a CSV: its PBx by the published leaderboard's rule.

    Args:
        path: a line per point: ``method`` (with the model, where there are several), ``kind`` (static or adaptive),
            ``speed`` (canvas tokens per forward) and ``score`` (percent); other columns are passed over.
        x: scores in percent.

    Raises:
        SettingsError: no such file, or a line that is not like that; the message names it.
    """
    if not path.is_file():
        raise SettingsError(f"there is no file {path}: set curves to a CSV with the columns {', '.join(COLUMNS)}")
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line, row in enumerate(csv.DictReader(file), 2):
            try:
                key, point = (row["method"], row["kind"]), (float(row["speed"]), float(row["score"]))
            except (KeyError, TypeError, ValueError):
                key, point = ("", ""), (0.0, 0.0)
            if key[1] not in KINDS or not all(map(isfinite, point)):
                raise SettingsError(f"{path} line {line} must have {', '.join(COLUMNS)}; kind is static or adaptive")
            curves.setdefault(key, []).append(point)
    if not curves:
        raise SettingsError(f"{path} holds no point: it needs a line for each, with {', '.join(COLUMNS)}")
    rows = [
        (*key, str(len(curve)), *(number(pbx.upstream(curve, v, key[1])) for v in x)) for key, curve in curves.items()
    ]
    heads = ("method", "kind", "points", *(f"PB{v:g}" for v in x))
    note = "published rule: canvas tokens per forward; only adaptive methods are interpolated"
    return Sheet(f"PBx of {path.name}", heads, rows, 2, note)
