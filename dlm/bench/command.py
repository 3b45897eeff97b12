"""What ``dlm bench`` runs and prints."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dlm.bench.decode import Figures, Workload, measure_decode
from dlm.bench.limits import Limits, measure
from dlm.bench.shapes import build
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models.loading import pick_device, pick_dtype


@dataclass(frozen=True)
class BenchSettings:
    """Settings of a benchmark; ``conf/bench.yaml`` mirrors them.

    Attributes:
        shapes: names of :func:`dlm.bench.shapes.build`.
        batches: batch sizes.
        prompt, new, block, runs, naive_steps: see :class:`dlm.bench.decode.Workload`.
        device, dtype: where and in which number format; None is the default of :func:`dlm.load`.
        threads: CPU threads; None leaves torch's choice.
    """

    shapes: Sequence[str] = ("tiny", "mid", "wide", "narrow")
    batches: Sequence[int] = (1,)
    prompt: int = 32
    new: int = 128
    block: int = 32
    runs: int = 3
    naive_steps: int = 5
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("prompt", "new", "block", "runs"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.new % self.block:
            raise SettingsError(f"block={self.block} must divide new={self.new}, so that every block is a full one")


def bench(settings: BenchSettings, sampler: Sampler) -> dict[str, Any]:
    """Measure every shape and batch size; prints a table and returns (and prints, as the last line) all figures."""
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    console = Console()
    limits = measure(device, dtype)
    console.print(_machine(device, dtype, limits))
    rows = []
    cells = [(shape, batch) for shape in settings.shapes for batch in settings.batches]
    for shape, batch in track(cells, description="measuring", console=console, transient=True):
        model = build(shape, device, dtype)
        work = Workload(
            batch, settings.prompt, settings.new, settings.block, settings.runs, settings.naive_steps
        )  # fmt: skip
        rows.append((shape, batch, measure_decode(model, sampler, work, limits)))
        del model
        gc.collect()
    console.print(_table(rows))
    result = {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sampler": sampler.name,
        "limits": asdict(limits),
        "settings": {**asdict(settings), "shapes": list(settings.shapes), "batches": list(settings.batches)},
        "figures": [{"shape": shape, "batch": batch, **figures.as_dict()} for shape, batch, figures in rows],
    }
    print(json.dumps(result))
    return result


def _machine(device: torch.device, dtype: torch.dtype, limits: Limits) -> str:
    return (
        f"{device_name(device)}, {str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads, torch"
        f" {torch.__version__}: {limits.flops / 1e12:.3g} TFLOP/s, {limits.bandwidth / 1e9:.3g} GB/s of weights"
    )


def device_name(device: torch.device) -> str:
    """What the device calls itself; ``cpu`` for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _table(rows: list[tuple[str, int, Figures]]) -> Table:
    """Figures downwards, shapes across: stays readable on a narrow terminal."""
    table = Table(title="milliseconds per step (medians)")
    table.add_column("")
    for shape, batch, _ in rows:
        table.add_column(f"{shape} x{batch}", justify="right")
    figures = [f for _, _, f in rows]
    table.add_row("full block: forward", *(_ms(f.forward) for f in figures))
    table.add_row("full block: outside it", *(_ms(f.outside) for f in figures))
    table.add_row("  share of the step", *(f"{f.outside_share:.1%}" for f in figures))
    table.add_row("all steps: forward", *(_ms(f.forward_all) for f in figures))
    table.add_row("all steps: outside it", *(_ms(f.outside_all) for f in figures))
    table.add_row("the machine's limit", *(_ms(f.limit) for f in figures))
    table.add_row("  limit / forward", *(f"{f.limit_share:.0%}" for f in figures))
    table.add_row("naive: forward", *(_ms(f.naive_forward) for f in figures))
    table.add_row("naive: outside it", *(_ms(f.naive_outside) for f in figures))
    table.add_row("  outside / naive outside", *(_ratio(f.outside, f.naive_outside) for f in figures))
    table.add_row("tokens per second", *(f"{f.tokens_per_second:.1f}" for f in figures))
    table.add_row("peak memory, MB", *(f"{f.peak_bytes / 1e6:.0f}" for f in figures))
    return table


def _ratio(a: float, b: float | None) -> str:
    return "-" if b is None else f"{a / b:.1%}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.2f}"
