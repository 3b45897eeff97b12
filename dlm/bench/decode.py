"""``dlm bench``: what a step costs inside the model and outside it, beside a naive decoder in the same process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, ClassVar

from rich.table import Table

from dlm.bench import engine
from dlm.bench.engine import Bench, Cell, Contender, Measured, decode_rounds, random_rounds
from dlm.bench.memory import peak_bytes, reset_peak
from dlm.bench.naive import naive_steps
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class DecodeBenchSettings(engine.Settings):
    """Settings of a benchmark, those of ``conf/bench.yaml``, which explains them.

    Raises:
        SettingsError: also blocks that are not all full ones.
    """

    MAY_BE_ZERO: ClassVar[Sequence[str]] = ("naive_steps",)
    shapes: Sequence[str] = ("tiny", "mid", "wide", "narrow")
    batches: Sequence[int] = (1,)
    prompt: int = 32
    new: int = 128
    block: int = 32
    runs: int = 3
    naive_steps: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new % self.block:
            raise SettingsError(f"block={self.block} must divide new={self.new}, so that every block is a full one")


def bench_decode(settings: DecodeBenchSettings, sampler: Sampler) -> dict[str, Any]:
    """Measure every shape and batch size; prints a table and returns (and prints, as the last line) all figures."""
    bench = Bench(settings)
    bench.show_machine()
    figures: list[Measured] = []
    for shape in settings.shapes:
        figures += _measured(bench, shape, sampler)
    bench.console.print(_table(figures))
    return bench.report(sampler=sampler.name, limits=asdict(bench.limits), figures=figures)


def _measured(bench: Bench[DecodeBenchSettings], shape: str, sampler: Sampler) -> list[Measured]:
    """The figures of a shape: medians, seconds per step of the whole batch. The first run warms up."""
    settings, model, figures = bench.settings, bench.model(shape), []
    for batch in settings.batches:
        cell = Cell(model, shape, batch, bench.limits)
        reset_peak(model.device)
        before = peak_bytes(model.device)
        jobs = random_rounds(cell, settings.prompt, settings.new, settings.runs)
        _, *rounds = decode_rounds(cell, [Contender("", sampler)], engine.Turns(jobs), f"{shape} x{batch}")
        peak = max(0, peak_bytes(model.device) - before)
        steps = [step for decodes in rounds for step in decodes[""].steps]
        full = [step for step in steps if step.positions == settings.block]
        forward, outside = median(s.inside for s in full), median(s.wall - s.inside for s in full)
        width = settings.prompt + settings.new
        limit = max(cell.least(width, batch * width, batch * settings.block))
        naive = []
        if settings.naive_steps:
            prompts = [list(job.tokens[: settings.prompt]) for job in jobs[0]]
            naive = naive_steps(model, prompts, settings.new, settings.block, settings.naive_steps + 1)[1:]
        figures.append(
            Measured(
                shape=shape,
                batch=batch,
                forward=forward,  # a step with a full block open, inside the model (body and head)
                outside=outside,  # everything else of such a step
                forward_all=median(s.inside for s in steps),  # over all steps, which have fewer and fewer rows open
                outside_all=median(s.wall - s.inside for s in steps),
                outside_share=outside / (forward + outside),
                limit=limit,  # that arithmetic or weight reading alone would take for that forward
                limit_share=limit / forward,
                tokens_per_second=len(rounds) * batch * settings.new / sum(d[""].seconds for d in rounds),
                peak_bytes=peak,  # above what the loaded model takes
                naive_forward=median(s.forward for s in naive) if naive else None,
                naive_outside=median(s.outside for s in naive) if naive else None,
            )
        )
    return figures


LINES: Sequence[tuple[str, Callable[[Measured], str]]] = (
    ("full block: forward", lambda f: _ms(f.forward)),
    ("full block: outside it", lambda f: _ms(f.outside)),
    ("  share of the step", lambda f: f"{f.outside_share:.1%}"),
    ("all steps: forward", lambda f: _ms(f.forward_all)),
    ("all steps: outside it", lambda f: _ms(f.outside_all)),
    ("the machine's limit", lambda f: _ms(f.limit)),
    ("  limit / forward", lambda f: f"{f.limit_share:.0%}"),
    ("naive: forward", lambda f: _ms(f.naive_forward)),
    ("naive: outside it", lambda f: _ms(f.naive_outside)),
    ("  outside / naive outside", lambda f: f"{f.outside / f.naive_outside:.1%}" if f.naive_outside else "-"),
    ("tokens per second", lambda f: f"{f.tokens_per_second:.1f}"),
    ("peak memory, MB", lambda f: f"{f.peak_bytes / 1e6:.0f}"),
)


def _table(figures: Sequence[Measured]) -> Table:
    """Figures downwards, shapes across: stays readable on a narrow terminal."""
    shown = Table(title="milliseconds per step (medians)")
    shown.add_column("")
    for f in figures:
        shown.add_column(f"{f.shape} x{f.batch}", justify="right")
    for heading, cell in LINES:
        shown.add_row(heading, *map(cell, figures))
    return shown


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.2f}"
