"""How ``dlm bench caches`` shows its figures: two tables, and the lines below them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from dlm.bench.cache_decode import Step
from dlm.bench.command import device_name
from dlm.bench.limits import Limits, forward_cost
from dlm.models import LanguageModel

if TYPE_CHECKING:
    from dlm.bench.caches import CacheFigures


def machine_line(device: torch.device, dtype: torch.dtype, limits: Limits) -> str:
    """The machine and what it can do."""
    return (
        f"{device_name(device)}, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads, torch"
        f" {torch.__version__}: {limits.flops / 1e12:.3g} TFLOP/s, {limits.bandwidth / 1e9:.3g} GB/s of weights"
    )


def time_table(figures: Sequence[CacheFigures]) -> Table:
    """What each cache saves, the fastest first."""
    first = figures[0]
    table = _empty(
        f"{first.shape} x{first.batch}, prompt {first.prompt}, generation {first.generation}",
        "token-forwards: positions a row feeds; paper: the same per step by the closed form; fewer, ratio: none / this,"
        " in positions and in seconds of the same round",
    )
    for heading in ("token-\nforwards", "per\nstep", "paper", "fewer", "seconds", "tok/s", "ratio", "from - to"):
        table.add_column(heading, justify="right", no_wrap=True)
    for f in by_speed(figures):
        table.add_row(
            Text(f.cache),
            f"{f.token_forwards:.0f}",
            f"{f.token_forwards / f.forwards:.1f}",
            "-" if f.on_paper is None else f"{f.on_paper / f.forwards:.1f}",
            f"{f.ratio_on_paper:.2f}",
            _short(f.seconds),
            _short(f.tokens_per_second),
            f"{f.ratio:.2f}",
            f"{f.ratio_least:.2f}-{f.ratio_most:.2f}" if f.ratio_least < f.ratio_most else "-",
        )
    return table


def shares_table(figures: Sequence[CacheFigures]) -> Table:
    """Where the time goes, and what the machine would allow."""
    first = figures[0]
    table = _empty(
        f"{first.shape} x{first.batch}: where the time goes, and the machine's limits",
        "refresh, step, rest: share of the time in recomputing whole rows, in other forwards, outside the model;"
        " arith., weights: seconds that arithmetic, and reading the weights, alone would take; limit: the longer one,"
        " step by step, as a share of the time; step ms: a step that recomputes no row whole, inside the model",
    )
    for heading in ("steps", "whole\nrows", "refresh", "step", "rest", "arith.", "weights", "limit", "step\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for f in by_speed(figures):
        table.add_row(
            Text(f.cache),
            str(f.forwards),
            str(f.refreshes),
            *(f"{share:.0%}" for share in (f.share_refresh, f.share_forward, f.share_sampler)),
            _short(f.arithmetic),
            _short(f.weights),
            f"{f.limit / f.seconds:.0%}",
            "-" if f.cached_step is None else _short(f.cached_step * 1000),
        )
    return table


def memory_table(figures: Sequence[CacheFigures], drift: int) -> Table:
    """Memory and drift."""
    first = figures[0]
    table = _empty(
        f"{first.shape} x{first.batch}: memory, and drift over {drift} positions",
        "formula: 2 x layers x kv_heads x head_dim x capacity x rows; other: stamps, features, masks; peak: allocated"
        " beyond the model; KL in nats",
    )
    peaks = any(f.peak is not None for f in figures)
    headings = ("keys, values\nMB", "formula\nMB", "other\nMB", *(["peak\nMB"] if peaks else []), "KL", "same top 1")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for f in by_speed(figures):
        sizes = f.keys_values, f.formula if f.keys_values else 0, f.other
        table.add_row(
            Text(f.cache),
            *(f"{size / 1e6:.2f}" for size in sizes),
            *(["-" if f.peak is None else f"{f.peak / 1e6:.0f}"] if peaks else []),
            "-" if f.kl is None else f"{f.kl:.2g}",
            "-" if f.agreement is None else f"{f.agreement:.1%}",
        )
    return table


def by_speed(figures: Sequence[CacheFigures]) -> list[CacheFigures]:
    """The order of the lines, the same in all tables."""
    return sorted(figures, key=lambda f: -f.ratio)


def noise_line(steps: Sequence[Step]) -> str:
    """How evenly the machine worked: without a cache every step is the same work."""
    low, *_, high = statistics.quantiles([step.inside for step in steps], n=10) if len(steps) > 1 else [0.0, 0.0]
    median = statistics.median(step.inside for step in steps)
    return (
        f"noise: a step without a cache, always the same work, takes {median * 1000:.1f} ms in the model (a tenth take"
        f" less than {low * 1000:.1f}, a tenth more than {high * 1000:.1f})"
    )


def cached_step_lines(limits: Limits, model: LanguageModel, figures: Sequence[CacheFigures], block: int) -> list[str]:
    """The dual cache's step, which feeds one block, beside the time that reading the weights and arithmetic take."""
    lines = []
    for f in figures:
        if f.cache.partition(":")[0] != "dual" or f.cached_step is None:
            continue
        flops, weight_bytes = forward_cost(model, block * f.batch, f.prompt + f.generation, f.batch * block)
        weights, arithmetic = limits.seconds(0, weight_bytes), limits.seconds(flops, 0)
        rows = "" if f.batch == 1 else f" of {f.batch} rows"
        lines.append(
            f"a {block}-token cached step{rows} ({f.cache}) takes {f.cached_step * 1000:.2f} ms in the model:"
            f" {f.cached_step / weights:.2f} times the weight-reading limit ({weights * 1000:.2f} ms),"
            f" {f.cached_step / arithmetic:.2f} times the arithmetic alone ({arithmetic * 1000:.2f} ms)"
        )
    return lines


def _empty(title: str, caption: str) -> Table:
    table = Table(
        title=Text(title), title_style="bold", title_justify="left", caption=caption, caption_justify="left",
        box=SIMPLE_HEAD, padding=0,
    )  # fmt: skip
    table.add_column("cache", no_wrap=True)
    return table


def _short(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
