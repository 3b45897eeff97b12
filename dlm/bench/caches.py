"""``dlm bench caches``: what each cache saves and costs, beside no cache, on the same model, prompts and sampler.

Every figure comes from whole generations. The caches take turns of a few steps each, so that whatever else the machine
does hits all of them alike, and ratios are taken within a round.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from dlm.bench.cache_decode import Decode, Held, Step, held
from dlm.bench.cache_tables import (
    cached_step_lines,
    machine_line,
    memory_table,
    noise_line,
    shares_table,
    time_table,
)
from dlm.bench.command import device_name
from dlm.bench.decode import Workload, random_jobs
from dlm.bench.limits import Limits, forward_cost, measure
from dlm.bench.shapes import Shape, build
from dlm.bench.token_forwards import Paper, on_paper
from dlm.engine.interfaces import Cache
from dlm.engine.no_cache import NoCache
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models import LanguageModel, random_model
from dlm.models.loading import pick_device, pick_dtype

NONE = "none"
Drifted = tuple[float | None, float | None]
BODY = Shape(512, 8, 8, 1536, 2048, "a body that dominates: what a cache can save on a CPU")
# Enough to see whole rows and others fed, and everything a cache allocates.
WARMUP_STEPS = 6
# Standard deviation of a random model's logits: about as sure of a token as a trained one.
LOGIT_SPREAD = 12.0


@dataclass(frozen=True)
class CachesBenchSettings:
    """Settings of the comparison; ``conf/bench_caches.yaml`` mirrors them.

    Attributes:
        shapes: ``body`` (width 512, 8 layers, vocabulary 2048) or names of :func:`dlm.bench.shapes.build`.
        batches: batch sizes.
        prompt, generation: positions of the prompt, and positions to fill.
        rounds: whole generations of each cache, each round from other prompts and in another order.
        turn: steps a cache takes before it is the next one's turn; None: the whole generation at once (the caches are
            not all in memory then).
        drift: positions over which the drift is measured, outside the timed part, at most all of them; 0: it is not.
        device, dtype: where and in which number format; None is the default of :func:`dlm.load`.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        SettingsError: a number that is none or too small, no shape or no batch size.
    """

    shapes: Sequence[str] = ("body",)
    batches: Sequence[int] = (1,)
    prompt: int = 512
    generation: int = 256
    rounds: int = 1
    turn: int | None = 32
    drift: int = 32
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("shapes", "batches"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given or ()))
            if not getattr(self, name):
                raise SettingsError(f"{name} names none: give at least one")
        counts = [(name, getattr(self, name), 1) for name in ("prompt", "generation", "rounds")]
        counts += [("batches", batch, 1) for batch in self.batches] + [("drift", self.drift, 0)]
        counts += [(name, getattr(self, name), 1) for name in ("turn", "threads") if getattr(self, name) is not None]
        for name, count, least in counts:
            if type(count) is not int or count < least:
                raise SettingsError(f"{name} must be a whole number of at least {least}, got {count!r}")
        object.__setattr__(self, "drift", min(self.drift, self.generation))


@dataclass(frozen=True)
class Contender:
    """One line of the table: a cache, the sampler it works with, and the line it is divided by."""

    label: str
    cache: Cache
    sampler: Sampler
    baseline: str


@dataclass(frozen=True)
class CacheFigures:
    """One cache at one shape and batch size; seconds and ratios are medians over the rounds.

    Attributes:
        shape, batch, prompt, generation, cache, sampler: what was measured.
        forwards: steps of a whole generation.
        refreshes: how many of them recomputed some row whole.
        token_forwards: positions that one row pushed through the body, mean over the rows.
        on_paper: the same by the closed form (:func:`dlm.bench.token_forwards.on_paper`); None: there is none.
        seconds: of the whole generation; least and most over the rounds beside it.
        tokens_per_second: of the whole batch.
        ratio: seconds without a cache / seconds, in the same round; least and most beside it.
        ratio_on_paper: token-forwards without a cache / token-forwards.
        share_refresh, share_forward, share_sampler: of the time of the steps.
        arithmetic, weights: seconds that arithmetic alone, and reading the weights at every step alone, would take.
        limit: the longer of the two, step by step.
        cached_step, cached_fed: median seconds inside the model of a step that recomputed no row whole, and positions
            the batch fed at such a step; None: there was none. For no cache: of any step.
        keys_values, other, formula, peak: see :class:`dlm.bench.cache_decode.Held`.
        kl, agreement: drift, see :func:`dlm.evaluation.drift.measure`; None where it was not measured.
    """

    shape: str
    batch: int
    prompt: int
    generation: int
    cache: str
    sampler: str
    forwards: int
    refreshes: int
    token_forwards: float
    on_paper: float | None
    seconds: float
    seconds_least: float
    seconds_most: float
    tokens_per_second: float
    ratio: float
    ratio_least: float
    ratio_most: float
    ratio_on_paper: float
    share_refresh: float
    share_forward: float
    share_sampler: float
    arithmetic: float
    weights: float
    limit: float
    cached_step: float | None
    cached_fed: float | None
    keys_values: int
    other: int
    formula: int
    peak: int | None
    kl: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Cell:
    """One model at one batch size.

    Attributes:
        model, shape, batch, settings: what is decoded.
        limits: what the machine can do.
        block: positions of a block.
    """

    model: LanguageModel
    shape: str
    batch: int
    settings: CachesBenchSettings
    limits: Limits
    block: int

    def workload(self, new: int) -> Workload:
        """``new`` positions after the prompt."""
        return Workload(self.batch, self.settings.prompt, new, self.block)


def bench_caches(
    settings: CachesBenchSettings,
    caches: Mapping[str, Cache | str],
    sampler: Sampler,
    ahead: Sampler | str,
) -> dict[str, Any]:
    """Measure every cache; prints three tables per shape and batch size and returns (and prints, as the last line)
    all figures.

    Args:
        settings: what is measured.
        caches: name -> the cache, or the reason why it could not be built. No cache is always measured.
        sampler: decodes with all of them.
        ahead: for caches that must know the order beforehand, where ``sampler`` does not; or why it could not be built.

    Raises:
        SettingsError: the sampler does not fit the generation; an unknown shape.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    console = Console()
    block = sampler.blocks.longest(settings.generation)
    limits = measure(device, dtype)
    console.print(machine_line(device, dtype, limits), soft_wrap=True)
    refused = {name: why for name, why in caches.items() if isinstance(why, str)}
    figures: list[CacheFigures] = []
    for shape in settings.shapes:
        model = built(shape, device, dtype)
        contenders, refusals = matched(model, caches, sampler, ahead)
        refused |= refusals
        drifts = {c.label: drift(model, c, settings) for c in contenders if settings.drift and c.label != c.baseline}
        for batch in settings.batches:
            cell = Cell(model, shape, batch, settings, limits, block)
            here, refusals = measure_cell(cell, contenders, drifts, console)
            refused |= refusals
            figures += here
        del model, cell
        gc.collect()
    for name, why in refused.items():
        console.print(Text(f"refused: {name}: {why}"), soft_wrap=True)
    result = {
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "limits": asdict(limits),
        "sampler": sampler.name,
        "block": block,
        "settings": asdict(settings),
        "figures": [asdict(f) for f in figures],
        "refused": refused,
    }
    print(json.dumps(result))
    return result


def built(shape: str, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """The model of a shape. A random one's head is scaled: caches that refresh after an unsure commit would otherwise
    refresh at every step.

    Raises:
        SettingsError: an unknown name.
    """
    model = random_model(BODY.config(), device=device, dtype=dtype) if shape == "body" else build(shape, device, dtype)
    if model.tokenizer is None:
        head = model.backbone.get_output_embeddings().weight  # type: ignore[attr-defined]
        head.mul_(LOGIT_SPREAD / (head.float().std().item() * head.shape[1] ** 0.5))
    return model


def matched(
    model: LanguageModel, caches: Mapping[str, Cache | str], sampler: Sampler, ahead: Sampler | str
) -> tuple[list[Contender], dict[str, str]]:
    """The lines of the table, and why the other caches go with neither sampler."""
    lines = {NONE: Contender(NONE, NoCache(), sampler, NONE)}
    refused: dict[str, str] = {}
    for name, cache in caches.items():
        if isinstance(cache, str) or name == NONE:
            continue
        fitting = ahead if cache.asks_ahead and not sampler.order_known else sampler
        if isinstance(fitting, str):
            refused[name] = f"the sampler it would be measured with could not be built: {fitting}"
            continue
        try:
            cache.check(fitting, model.description)
        except SettingsError as error:
            refused[name] = str(error)
            continue
        suffix = "" if fitting is sampler else f", {fitting.name}"
        base, label = NONE + suffix, name + suffix
        lines.setdefault(base, Contender(base, NoCache(), fitting, base))
        lines[label] = Contender(label, cache, fitting, base)
    return list(lines.values()), refused


def measure_cell(
    cell: Cell, contenders: Sequence[Contender], drifts: Mapping[str, Drifted], console: Console
) -> tuple[list[CacheFigures], dict[str, str]]:
    """Figures of every contender, printed, and why some would not decode this."""
    settings, refused = cell.settings, {}
    memory: dict[str, Held] = {}
    jobs = random_jobs(cell.model, cell.workload(settings.generation), seed=0)
    for contender in contenders:
        try:
            memory[contender.label] = held(cell.model, contender.sampler, contender.cache, jobs, WARMUP_STEPS)
        except SettingsError as error:
            if contender.baseline == contender.label:
                raise
            refused[contender.label] = str(error)
    ready = [contender for contender in contenders if contender.label in memory]
    rounds = timed(cell, ready)
    figures = []
    for contender in ready:
        kl, agreement = drifts.get(contender.label, (None, None))
        measured = figures_of(cell, contender, rounds, memory[contender.label])
        figures.append(replace(measured, kl=kl, agreement=agreement))
    console.print(time_table(figures), "")
    console.print(shares_table(figures), "")
    console.print(memory_table(figures, settings.drift), "")
    base = [step for decodes in rounds for step in decodes[NONE].steps]
    lines = [noise_line(base), *cached_step_lines(cell.limits, cell.model, figures, cell.block)]
    console.print(*lines, "", sep="\n", soft_wrap=True, highlight=False)
    return figures, refused


def timed(cell: Cell, contenders: Sequence[Contender]) -> list[dict[str, Decode]]:
    """Whole generations: per round the decode of every contender, by label."""
    settings, rounds = cell.settings, []
    total = settings.rounds * len(contenders) * settings.generation
    with Progress(console=Console(stderr=True), transient=True, refresh_per_second=1) as progress:
        bar = progress.add_task(f"{cell.shape} x{cell.batch}", total=total)
        for number in range(settings.rounds):
            jobs = random_jobs(cell.model, cell.workload(settings.generation), seed=number + 1)
            turns = list(contenders)
            random.Random(number).shuffle(turns)
            decodes = {c.label: Decode.of(cell.model, c.sampler, c.cache, jobs) for c in turns}
            while any(not decode.done for decode in decodes.values()):
                for decode in (d for d in decodes.values() if not d.done):
                    before = len(decode.steps)
                    decode.advance(settings.turn)
                    progress.advance(bar, len(decode.steps) - before)
            rounds.append({c.label: decodes[c.label] for c in contenders})
    return rounds


def figures_of(cell: Cell, contender: Contender, rounds: Sequence[Mapping[str, Decode]], memory: Held) -> CacheFigures:
    """Medians over the rounds; a ratio is taken within each round."""
    own = [decodes[contender.label] for decodes in rounds]
    base = [decodes[contender.baseline] for decodes in rounds]
    ratios = [other.seconds / decode.seconds for decode, other in zip(own, base, strict=True)]
    seconds = [decode.seconds for decode in own]
    steps = [step for decode in own for step in decode.steps]
    refresh, forward, outside = (sum(getattr(s, part) for s in steps) for part in ("refresh", "forward", "sampler"))
    fed, fed_base = (statistics.mean(sum(s.fed for s in d.steps) / cell.batch for d in ds) for ds in (own, base))
    cached = [s for s in steps if not s.refresh]
    paper = Paper(cell.settings.prompt, cell.settings.generation, cell.block)
    one_each = len(own[0].steps) == paper.generation and paper.generation % paper.block == 0
    limits = [_limits(cell, decode.steps) for decode in own]
    arithmetic, weights, limit = (statistics.median(seconds) for seconds in zip(*limits, strict=True))
    return CacheFigures(
        shape=cell.shape,
        batch=cell.batch,
        prompt=cell.settings.prompt,
        generation=cell.settings.generation,
        cache=contender.label,
        sampler=contender.sampler.name,
        forwards=round(statistics.median(len(d.steps) for d in own)),
        refreshes=round(statistics.median(sum(s.refresh > 0 for s in d.steps) for d in own)),
        token_forwards=fed,
        on_paper=on_paper(contender.label.partition(",")[0], contender.cache, paper) if one_each else None,
        seconds=statistics.median(seconds),
        seconds_least=min(seconds),
        seconds_most=max(seconds),
        tokens_per_second=cell.batch * cell.settings.generation / statistics.median(seconds),
        ratio=statistics.median(ratios),
        ratio_least=min(ratios),
        ratio_most=max(ratios),
        ratio_on_paper=fed_base / fed,
        share_refresh=refresh / (refresh + forward + outside),
        share_forward=forward / (refresh + forward + outside),
        share_sampler=outside / (refresh + forward + outside),
        arithmetic=arithmetic,
        weights=weights,
        limit=limit,
        cached_step=statistics.median(s.inside for s in cached) if cached else None,
        cached_fed=statistics.median(s.fed for s in cached) if cached else None,
        **asdict(memory),
    )


def _limits(cell: Cell, steps: Sequence[Step]) -> tuple[float, float, float]:
    """Seconds of arithmetic alone, of reading the weights alone, and of the longer one at each step."""
    row = cell.settings.prompt + cell.settings.generation
    arithmetic, weights = [], []
    for step in steps:
        flops, weight_bytes = forward_cost(cell.model, step.fed, row, step.scored)
        arithmetic.append(cell.limits.seconds(flops, 0))
        weights.append(cell.limits.seconds(0, weight_bytes))
    return sum(arithmetic), sum(weights), sum(map(max, arithmetic, weights))


def drift(model: LanguageModel, contender: Contender, settings: CachesBenchSettings) -> Drifted:
    """Mean divergence and top-1 agreement over a short generation; None where the drift cannot be told."""
    from dlm.evaluation.drift import measure as measure_drift

    (job,) = random_jobs(model, Workload(1, settings.prompt, settings.drift), seed=1)
    prompt = list(job.tokens[: settings.prompt])
    try:
        told = measure_drift(model, [prompt], contender.sampler, contender.cache, max_new_tokens=settings.drift)
    except SettingsError:
        return None, None
    return told.mean_kl, told.agreement
