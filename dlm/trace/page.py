"""One HTML file that plays traces: nothing is fetched, it works from a disk, an e-mail or an issue."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files

from dlm.trace.steps import Trace


def page(traces: Sequence[Trace], title: str, total: int | None = None) -> str:
    """The player with its traces in it.

    Args:
        traces: the rows to show, at least one.
        title: what stands above them.
        total: rows there are in all, when that is more than are shown.
    """
    rows = [trace.as_dict() for trace in traces]
    data = {"title": title, "total": len(rows) if total is None else total, "rows": rows}
    parts = {
        "style": _read("player.css"),
        "script": _read("player.js"),
        "title": html.escape(title),
        "data": embedded(data),
    }
    # In one pass: what a model wrote may look like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _read("player.html"))


def embedded(values: object) -> str:
    """JSON for a script element: no text in it can end the element or begin another."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _read(name: str) -> str:
    return (files("dlm.trace") / "player" / name).read_text(encoding="utf-8")
