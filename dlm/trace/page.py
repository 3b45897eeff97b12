"""One HTML file that plays traces: nothing is fetched, it works from a disk, an e-mail or an issue."""

from __future__ import annotations

from collections.abc import Sequence

from dlm.pages import rendered
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
    return rendered("dlm.trace", "player/player.html", title=title, data=data)
