"""``dlm bench samplers``: what a step of each sampler costs outside the model, beside the threshold rule's.

Every sampler decodes the same random canvases for a few steps, in turn, round after round, each round in another order:
whatever else the machine does hits all of them alike, and ratios are taken within a round.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from dlm.bench.command import device_name
from dlm.bench.decode import Workload, random_jobs
from dlm.bench.shapes import build
from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models import LanguageModel, load
from dlm.models.loading import pick_device, pick_dtype

BASELINE = "threshold"
# A sampler above this ratio should say why (`Sampler.extra_cost`).
RATIO_TO_EXPLAIN = 3.0
TURNS_BETWEEN_BASELINES = 4


@dataclass(frozen=True)
class SamplersBenchSettings:
    """Settings of the comparison; ``conf/bench_samplers.yaml`` mirrors them.

    Attributes:
        shapes: names of :func:`dlm.bench.shapes.build`.
        batches: batch sizes.
        prompt: positions of the prompt.
        new: positions to fill, one block; at most 32, the length that blocks have by themselves.
        runs: rounds that count; one more goes before them to warm up.
        steps: steps from a fresh canvas that are timed in each round. With 1 no sampler has a history yet.
        device, dtype: where and in which number format; None is the default of :func:`dlm.load`.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        SettingsError: a number that is none or too small, more than one block, no shape or no batch size.
    """

    shapes: Sequence[str] = ("narrow",)
    batches: Sequence[int] = (1, 8)
    prompt: int = 32
    new: int = 32
    runs: int = 5
    steps: int = 3
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("shapes", "batches"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given or ()))
            if not getattr(self, name):
                raise SettingsError(f"{name} names none: give at least one")
        counts = [(name, getattr(self, name)) for name in ("prompt", "new", "runs", "steps")]
        counts += [("batches", batch) for batch in self.batches]
        counts += [("threads", self.threads)] if self.threads is not None else []
        for name, count in counts:
            if type(count) is not int or count < 1:
                raise SettingsError(f"{name} must be a whole number of at least 1, got {count!r}")
        if self.new > 32:
            raise SettingsError(f"new={self.new} is more than one block for some samplers: use at most 32")


@dataclass(frozen=True)
class Cost:
    """Means over the first steps of one decode.

    Attributes:
        positions: positions per row that the head was evaluated at for proposals.
        sampler: seconds of a step of the whole batch outside the model's body and head.
        whole: seconds of a step of the whole batch.
    """

    positions: float
    sampler: float
    whole: float


@dataclass(frozen=True)
class SamplerFigures:
    """One sampler at one shape and batch size: medians over the rounds.

    Attributes:
        shape, batch, sampler: what was measured.
        positions: mean number of positions per row that the head was evaluated at for proposals. A second head pass,
            a shadow block and look-ahead branches come on top.
        seconds_sampler, seconds_step: of a step of the whole batch: outside the model, and all of it.
        ratio, ratio_step: these beside the threshold rule's of the same round.
        extra_cost: the sampler's own reason for costing more; empty when it has none.
    """

    shape: str
    batch: int
    sampler: str
    positions: float
    seconds_sampler: float
    seconds_step: float
    ratio: float
    ratio_step: float
    extra_cost: str


def bench_samplers(settings: SamplersBenchSettings, samplers: Mapping[str, Sampler | str]) -> dict[str, Any]:
    """Measure every sampler; prints a table per shape and returns (and prints, as the last line) all figures.

    Args:
        settings: what is measured.
        samplers: name -> the sampler, or the reason why it could not be built. ``threshold`` must be among them.

    Raises:
        SettingsError: the threshold rule is absent or does not run; an unknown shape.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    console = Console()
    refused = {name: why for name, why in samplers.items() if isinstance(why, str)}
    if BASELINE not in samplers or BASELINE in refused:
        why = refused.get(BASELINE, "it is not among the samplers")
        raise SettingsError(f"{BASELINE}, which the others are compared with, cannot be measured: {why}")
    figures: list[SamplerFigures] = []
    for shape in settings.shapes:
        model = build(shape, device, dtype)
        ready = _bound(model, samplers)
        here: list[SamplerFigures] = []
        for batch in settings.batches:
            costs, refusals = _rounds(model, ready, settings, batch)
            refused |= refusals
            here += [_figures(ready[name], (shape, batch, name), costs) for name in costs]
        console.print(_table(shape, here, settings))
        figures += here
        del model
        gc.collect()
    for name, why in refused.items():
        console.print(Text(f"refused: {name}: {why}"), soft_wrap=True)
    unexplained = sorted({f.sampler for f in figures if f.ratio > RATIO_TO_EXPLAIN and not f.extra_cost})
    listed = ", ".join(unexplained) or "none"
    console.print(f"above {RATIO_TO_EXPLAIN:g} without a declared reason: {listed}", soft_wrap=True)
    result = {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "baseline": BASELINE,
        "settings": asdict(settings),
        "figures": [asdict(f) for f in figures],
        "refused": refused,
        "unexplained": unexplained,
    }
    print(json.dumps(result))
    return result


def _bound(model: LanguageModel, samplers: Mapping[str, Sampler | str]) -> dict[str, Sampler]:
    """The samplers with texts turned into ids. A model with random weights has no tokenizer; the packaged one's gives
    ids that cost as much as any."""
    built = {name: sampler for name, sampler in samplers.items() if isinstance(sampler, Sampler)}
    tokenizer = model.tokenizer
    if tokenizer is None and any(sampler.binds for sampler in built.values()):
        tokenizer = load("tiny").tokenizer
    return {name: sampler.bind(tokenizer, model.description.valid_vocab) for name, sampler in built.items()}


def _rounds(
    model: LanguageModel, samplers: Mapping[str, Sampler], settings: SamplersBenchSettings, batch: int
) -> tuple[dict[str, list[Cost]], dict[str, str]]:
    """Costs of every round but the first, by sampler, and why some samplers would not decode this."""
    work = Workload(batch, settings.prompt, settings.new, settings.new)
    costs: dict[str, list[Cost]] = {name: [] for name in samplers}
    refused: dict[str, str] = {}
    progress = track(range(settings.runs + 1), f"batch {batch}", console=Console(stderr=True), transient=True)
    for number in progress:
        jobs = random_jobs(model, work, seed=number)
        taken: dict[str, list[Cost]] = {}
        for name in _order(costs, number):
            try:
                taken.setdefault(name, []).append(_decode(model, samplers[name], jobs, settings.steps))
            except SettingsError as error:
                if name == BASELINE:
                    raise
                refused[name] = str(error)
                del costs[name]
        for name in costs if number else ():
            costs[name].append(sorted(taken[name], key=lambda cost: cost.sampler)[len(taken[name]) // 2])
    return costs, refused


def _order(names: Iterable[str], number: int) -> list[str]:
    """The turns of a round. What a sampler leaves in the caches must not always hit the same one, and the baseline,
    by which all are divided, comes several times (its median counts)."""
    others = [name for name in names if name != BASELINE]
    random.Random(number).shuffle(others)
    turns = [BASELINE]
    for place, name in enumerate(others, start=1):
        turns += [name] if place % TURNS_BETWEEN_BASELINES else [name, BASELINE]
    return turns


def _decode(model: LanguageModel, sampler: Sampler, jobs: list[Job], steps: int) -> Cost:
    """The first ``steps`` steps of one decode, fewer if every row is finished before."""
    decoder = Decoder(model.backbone, model.description, sampler)
    events = (event for event in decoder.run(jobs, len(jobs), model.device) if isinstance(event, StepEvent))
    positions: list[int] = []
    sampling: dict[int, float] = {}
    forward: dict[int, float] = {}
    for event in islice(events, steps):
        positions.append(event.view.positions.shape[1])
        for row in event.rows:  # a row's account runs on from step to step
            sampling[row.job.index] = row.seconds_sampler
            forward[row.job.index] = row.seconds_step
    outside, inside = sum(sampling.values()) / len(positions), sum(forward.values()) / len(positions)
    return Cost(statistics.mean(positions), outside, outside + inside)


def _figures(sampler: Sampler, what: tuple[str, int, str], costs: Mapping[str, list[Cost]]) -> SamplerFigures:
    """Medians over the rounds; a ratio is taken within each round."""
    own, base = costs[what[2]], costs[BASELINE]
    pairs = list(zip(own, base, strict=True))
    return SamplerFigures(
        *what,
        positions=statistics.mean(cost.positions for cost in own),
        seconds_sampler=statistics.median(cost.sampler for cost in own),
        seconds_step=statistics.median(cost.whole for cost in own),
        ratio=statistics.median(cost.sampler / other.sampler for cost, other in pairs),
        ratio_step=statistics.median(cost.whole / other.whole for cost, other in pairs),
        extra_cost=sampler.extra_cost,
    )


def _table(shape: str, figures: list[SamplerFigures], settings: SamplersBenchSettings) -> Table:
    """Samplers downwards, the cheapest first."""
    title = f"{shape}: {settings.new} positions open, first {settings.steps} steps, median of {settings.runs} rounds"
    caption = "ms, ratio: a step without the model's body and head; step ratio: all of it"
    # The columns fit into a terminal of 80 when nothing is spent on padding.
    table = Table(
        title=Text(title), title_style="bold", title_justify="left", caption=caption, box=SIMPLE_HEAD, padding=0
    )  # fmt: skip
    table.add_column("sampler", no_wrap=True)
    table.add_column("scored", justify="right")
    for heading in ("\nms", "\nratio", "step\nratio"):
        for batch in settings.batches:
            table.add_column(f"{heading}\nx{batch}", justify="right", no_wrap=True)
    table.add_column("declared cost", min_width=16)
    by_name: dict[str, list[SamplerFigures]] = {}
    for f in figures:
        by_name.setdefault(f.sampler, []).append(f)
    for name, row in sorted(by_name.items(), key=lambda item: max(f.ratio for f in item[1])):
        table.add_row(
            Text(name),
            f"{row[0].positions:.1f}",
            *(f"{f.seconds_sampler * 1000:.1f}" for f in row),
            *(f"{f.ratio:.2f}" for f in row),
            *(f"{f.ratio_step:.2f}" for f in row),
            Text(row[0].extra_cost),
        )
    return table
