"""Methods side by side on the same held-out questions: a line of figures each, read from where the runner kept them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlm.errors import DlmError
from dlm.evaluation.lines import read_lines
from dlm.evaluation.runner import Models, Ready
from dlm.evaluation.session import run_point
from dlm.report.figures import figures_of

WARM_UP = 4  # questions decoded before anything is timed


@dataclass(frozen=True)
class Line:
    """Figures of one sampler on one task; means are over questions."""

    # task, sampler: names; the sampler's with the settings it was asked for
    task: str
    sampler: str
    n: int  # number of questions
    max_new_tokens: int  # positions that were filled per question
    # accuracy, accuracy_low, accuracy_high: share of right answers, and its 95 % interval
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    # forwards to canvas_tokens_per_forward, positions_cut: means of :class:`dlm.engine.result.Counts`
    forwards: float
    token_forwards: float
    tokens: float
    tokens_per_forward: float
    canvas_tokens_per_forward: float
    # milliseconds outside the forward, summed / forwards, summed. A row bears its share of the time of its batch, so
    # this falls as batches grow.
    overhead_ms_per_step: float
    outside_share: float  # seconds outside the forward / all seconds
    seconds: float  # wall time of all steps
    positions_cut: float = 0.0


@dataclass(frozen=True)
class Refused:
    """A sampler that could not run on a task."""

    # task, sampler: names
    task: str
    sampler: str
    reason: str  # what its error said


def measure(ready: Ready, label: str, models: Models) -> Line:
    """Ask all questions of a point, and read its figures.

    Raises:
        SettingsError: the settings do not fit the questions or the model.
        DlmError: a question got no answer.
    """
    outcome = run_point(ready, models, quiet=True)
    if outcome.failures:
        first = next(line for line in read_lines(outcome.folder / "failures.jsonl") if isinstance(line, dict))
        raise DlmError(f"{ready.point.task} with {label}: {first['message']}")
    return line_of(label, outcome.folder)


def warm_up(ready: Ready, models: Models) -> None:
    """Ask a few questions, so that no method's figures hold what only the first run costs."""
    few = replace(ready.wanted, limit=min(WARM_UP, ready.wanted.limit), out=ready.wanted.out / "warm-up")
    run_point(replace(ready, wanted=few), models, quiet=True)


def line_of(label: str, folder: Path) -> Line:
    """The figures of a point's folder."""
    (figures,) = figures_of([folder])
    row, result = figures.row, figures.result
    columns, same = result.columns, ("forwards", "token_forwards", "tokens", "tokens_per_forward", "positions_cut")
    seconds, forwards = float(columns["seconds"].sum()), float(columns["forwards"].sum())
    outside = seconds - float(columns["seconds_model"].sum())
    return Line(
        task=result.point.task,
        sampler=label,
        n=row.samples,
        max_new_tokens=result.point.config["max_new_tokens"],
        accuracy=row.score,
        accuracy_low=row.score_low,
        accuracy_high=row.score_high,
        **{name: getattr(row, name) for name in (*same, "canvas_tokens_per_forward")},
        overhead_ms_per_step=1000 * outside / forwards if forwards else 0.0,
        outside_share=outside / seconds if seconds else 0.0,
        seconds=seconds,
    )


def ranked(lines: Sequence[Line]) -> list[Line]:
    """The best first: by accuracy, then by tokens per forward, then by name."""
    return sorted(lines, key=lambda line: (-line.accuracy, -line.tokens_per_forward, line.sampler))
