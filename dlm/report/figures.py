"""The figures of one point: what its samples say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dlm.report.common import common_questions
from dlm.report.methods import Place, places_of
from dlm.report.order import Order, histogram, orders_of
from dlm.report.reader import Columns, Result, read_store
from dlm.report.statistics import Interval, interval_of
from dlm.words import visible

NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """One configuration on one task; a line of ``points.csv``. Figures without a sample behind them are NaN."""

    # task, model, method, setting: names; ``setting`` is what is swept within the method, as ``key=value``
    task: str
    model: str
    method: str
    setting: str
    kind: str  # ``static`` (a fixed number of tokens per forward) or ``adaptive``
    status: str  # ``done``, ``unfinished`` or ``failures``
    # asked, answers, failures: how many were wanted (None: unknown), answered, and how many failed for good
    asked: int | None
    answers: int
    failures: int
    # whether the point is compared with the task's others: all figures are then over the questions that these have in
    # common, else over its own
    compared: bool
    # samples, questions: the answers that the figures are over, and over how many different questions
    samples: int
    questions: int
    # score, score_low, score_high, interval: mean in [0, 1], its 95 % interval, and how that was found
    score: float
    score_low: float
    score_high: float
    interval: str
    score_strict: float  # with the strict parser; over the samples that have one
    # the headline: mean over samples of tokens before the first end token / forwards until the last of them was fixed
    tokens_per_forward: float
    tokens_per_forward_summed: float  # the same as a ratio of sums
    # canvas_tokens_per_forward, canvas_tokens_per_forward_summed: positions / forwards, padding included: the papers'
    # figure, as a mean of ratios and as a ratio of sums
    canvas_tokens_per_forward: float
    canvas_tokens_per_forward_summed: float
    # forwards, forwards_p50, forwards_p95: model evaluations a sample
    forwards: float
    forwards_p50: float
    forwards_p95: float
    content_forwards: float  # of these, until the last content token was fixed
    # token_forwards, tokens, canvas, prompt_tokens: means
    token_forwards: float
    tokens: float
    canvas: float
    prompt_tokens: float
    tokens_per_second: float  # content tokens, summed / seconds, summed
    # seconds_p50, seconds_p95: latency of a sample; rows of a batch share its time equally
    seconds_p50: float
    seconds_p95: float
    outside_model: float  # share of the seconds spent outside forwards
    # steps, tokens_per_step_max: steps that fixed something, and the most positions one of them fixed, means
    steps: float
    tokens_per_step_max: float
    # kendall, spearman: correlation of step and position over the content, means over samples
    kendall: float
    spearman: float
    # kendall_canvas, spearman_canvas: the same with the filler behind the content
    kendall_canvas: float
    spearman_canvas: float
    # ar_ness, left_to_right: over the content; see :class:`dlm.report.order.Order`
    ar_ness: float
    left_to_right: float
    # accepted_drafts, positions_cut: means
    accepted_drafts: float
    positions_cut: float
    errors: str  # ``name=count`` of the error types, most frequent first
    parts: str  # ``name=mean`` of further scores
    parameters: str  # everything that was swept in the method, ``key=value``
    questions_hash: str  # the same wherever the same questions were answered
    # folder, hash: where the point is
    folder: str
    hash: str


@dataclass(frozen=True)
class Figures:
    """A point with its figures."""

    result: Result  # what was read
    place: Place  # method and setting
    row: Row  # the figures
    interval: Interval  # of the score
    per_step: NDArray[np.float64] = field(repr=False)  # [steps] tokens fixed at each step, mean over all samples


def figures_of(folders: Sequence[Path]) -> list[Figures]:
    """Everything counted, for every point below some folders. Raises SettingsError: as
    :func:`dlm.report.reader.read_store`."""
    results = read_store(folders).results
    places = places_of([result.point for result in results], [result.columns.steady for result in results])
    columns, compared = _on_common_questions([result.columns for result in results], [p.task for p in places])
    orders = orders_of([c.commit_step for c in columns], [c["tokens"].astype(np.int64) for c in columns])
    return [_figures(*point) for point in zip(results, places, columns, compared, orders, strict=True)]


def _on_common_questions(columns: Sequence[Columns], tasks: Sequence[str]) -> tuple[list[Columns], list[bool]]:
    """What of each point is compared with the others of its task, and whether anything is."""
    asked = [frozenset(c.instance.tolist()) for c in columns]
    shared = {t: common_questions([a for a, own in zip(asked, tasks, strict=True) if own == t]) for t in set(tasks)}
    compared = [bool(a) and shared[task] <= a for a, task in zip(asked, tasks, strict=True)]
    chosen = [
        c.only(np.isin(c.instance, list(shared[task]))) if same and shared[task] != a else c
        for c, task, same, a in zip(columns, tasks, compared, asked, strict=True)
    ]
    return chosen, compared


def _figures(result: Result, place: Place, columns: Columns, compared: bool, orders: tuple[Order, Order]) -> Figures:
    whole, content = orders
    interval = interval_of(columns["score"], columns.instance)
    together = histogram(columns.commit_step)
    row = Row(
        task=place.task, model=place.model, method=place.method, setting=place.setting, kind=place.kind,
        status=result.status, asked=result.asked, answers=len(result.columns), failures=result.failed,
        compared=compared, samples=len(columns), questions=len(np.unique(columns.instance)),
        score=interval.mean, score_low=interval.low, score_high=interval.high, interval=interval.kind,
        score_strict=_mean(columns.strict),
        **_speed(columns), steps=_mean(np.count_nonzero(together, axis=1)),
        tokens_per_step_max=_mean(together.max(axis=1, initial=0)),
        **{f.name: _mean(getattr(content, f.name)) for f in fields(Order)},
        kendall_canvas=_mean(whole.kendall), spearman_canvas=_mean(whole.spearman),
        accepted_drafts=_mean(columns["accepted_drafts"]), positions_cut=_mean(columns["positions_cut"]),
        errors=_listed(dict(columns.errors.most_common())), parts=_listed(columns.parts),
        parameters=_listed(place.values), questions_hash=columns.fingerprint, folder=str(result.folder),
        hash=result.point.hash,
    )  # fmt: skip
    per_step = together.mean(axis=0) if len(together) else np.zeros(0)
    return Figures(result, place, row, interval, per_step)


def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per sample; 0 where nothing was needed, as in :class:`dlm.engine.result.Counts`."""
    return np.divide(above, below, out=np.zeros(len(above)), where=below > 0)


def _speed(c: Columns) -> dict[str, float]:
    seconds, forwards = c["seconds"], c["forwards"]
    return {
        "tokens_per_forward": _mean(ratio(c["tokens"], c["content_forwards"])),
        "tokens_per_forward_summed": _sums(c["tokens"], c["content_forwards"]),
        "canvas_tokens_per_forward": _mean(ratio(c["canvas"], forwards)),
        "canvas_tokens_per_forward_summed": _sums(c["canvas"], forwards),
        **{name: _mean(c[name]) for name in ("forwards", "content_forwards", "token_forwards")},
        **{name: _mean(c[name]) for name in ("tokens", "canvas", "prompt_tokens")},
        **_quantiles("forwards", forwards),
        "tokens_per_second": _sums(c["tokens"], seconds),
        **_quantiles("seconds", seconds),
        "outside_model": 1 - _sums(c["seconds_model"], seconds),
    }


def _mean(values: NDArray[Any]) -> float:
    """The mean of what is defined."""
    defined = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    return float(defined.mean()) if len(defined) else NAN


def _sums(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    total = float(below.sum())
    return float(above.sum()) / total if total > 0 else NAN


def _quantiles(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    found = np.quantile(values, (0.5, 0.95)) if len(values) else (NAN, NAN)
    return {f"{name}_p50": float(found[0]), f"{name}_p95": float(found[1])}


def _listed(values: dict[str, Any]) -> str:
    told = (f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items())
    return visible(" ".join(told))
