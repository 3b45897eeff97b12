"""Cost against what is lost, of the settings that a tuning looked at. Matplotlib is imported when it is drawn."""

from __future__ import annotations

from pathlib import Path

from dlm.evaluation.tuning.tune import Tuned
from dlm.files import whole
from dlm.report.plots import COLORS, DPI, INK, OTHERS, SETTINGS, new_figure

SHOWN = {"certified": COLORS[2], "rejected": COLORS[1], "undecided": COLORS[4], "not reached": COLORS[0]}


def draw(tuned: Tuned, path: Path) -> None:
    """Write the picture as PNG, whole or not at all; the settings worth showing are numbered by their cost."""
    import matplotlib

    plan, front = tuned.plan, tuned.front
    with matplotlib.rc_context(SETTINGS):
        figure = new_figure(8.6, 4.2)
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.axhline(-100 * plan.epsilon, color=COLORS[1], linewidth=0.9, linestyle="--", label="epsilon")
        axes.plot([tuned.reference.cost], [0], "*", color=INK, markersize=9, label="the reference")
        rest = [c for c in tuned.candidates if len(c.scores) and c not in front]
        axes.plot([c.cost for c in rest], [-100 * c.losses.mean() for c in rest], ".", color=OTHERS, label="others")
        for number, one in enumerate(front, start=1):
            color, ends = SHOWN.get(one.status, INK), (-100 * one.figures["low"], -100 * one.figures["high"])
            status = f" ({one.status})" if one.status in SHOWN else ""
            axes.plot([one.cost] * 2, ends, color=color, linewidth=1)
            axes.plot([one.cost], [-100 * one.losses.mean()], "o", color=color, label=f"{number}  {one.label}{status}")
            axes.annotate(
                f"{number}", (one.cost, max(ends)), (0, 2), textcoords="offset points", ha="center", fontsize=8
            )
        worst = max([2 * plan.epsilon, *(one.figures["high"] for one in front)])
        axes.set_ylim(-130 * worst, 90 * worst)
        axes.set_xlabel(f"{plan.cost} a question (logarithmic)")
        axes.set_ylabel("score against the reference, points")
        axes.set_title(f"{len(tuned.candidates)} settings looked at", fontsize=10)
        figure.legend(loc="outside right upper", fontsize=8)
        with whole(path, sync=False) as partial:
            figure.savefig(partial, format="png", dpi=DPI)
