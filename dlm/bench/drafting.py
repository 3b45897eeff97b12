"""``dlm bench drafting``: FreeDave beside the undrafted run of the same prompts.

All runs of a table are in one process and take turns of a few forwards, so that whatever else the machine does hits
them alike; the undrafted run is there twice, and how far the two are apart is the noise. Ratios are taken within a
round.
"""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from dlm.bench.cache_tables import machine_line
from dlm.bench.caches import built
from dlm.bench.command import device_name
from dlm.bench.decode import Workload
from dlm.bench.draft_decode import Cell, Contender, DraftRun, bound, fitting, question_jobs, random_rounds
from dlm.bench.draft_figures import DraftFigures, FlipFigures, figures_of, flips_of
from dlm.bench.draft_knee import ForwardFigures, measure_knee
from dlm.bench.draft_tables import flips_table, forwards_table, knee_table, seconds_table, verdicts
from dlm.bench.limits import Limits, measure
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.evaluation.compare import Questions
from dlm.models import LanguageModel
from dlm.models.loading import pick_device, pick_dtype
from dlm.speculation import FreeDave

UNDRAFTED = "none"
AGAIN = "again"
RANDOM = "random prompts"


@dataclass(frozen=True)
class DraftingBenchSettings:
    """Settings of the comparison; ``conf/bench_drafting.yaml`` mirrors them.

    Attributes:
        models: ``tiny`` decodes held-out questions; other names are those of ``dlm bench caches``, with random weights
            and prompts of random tokens.
        batches: batch sizes.
        tasks, questions: what ``tiny`` is asked, and how many questions of each task in every round.
        prompt, generation: positions of a random prompt, and positions to fill after it.
        layouts, draft_lengths: of :class:`dlm.speculation.FreeDave`; lengths may hold ``"auto"``.
        rounds: whole decodes of each, in every round other prompts and another order.
        turn: forwards after which the next one has its turn; None: the whole decode.
        versions: numbers of versions whose forward is timed (the knee); none leaves it out.
        flip_dtypes, flip_questions: number formats in which ``tiny`` answers so many questions of each task, untimed,
            to count the answers that differ; no format leaves it out.
        device, dtype: where and in which number format the timed part runs; None is the default of :func:`dlm.load`.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        SettingsError: a number that is none or too small, an empty list.
    """

    models: Sequence[str] = ("tiny", "body")
    batches: Sequence[int] = (1,)
    tasks: Sequence[str] = ("waiting_line/shuffle", "puzzle/sudoku", "math/word_problem")
    questions: int = 4
    prompt: int = 64
    generation: int = 32
    layouts: Sequence[str] = ("batch", "tree")
    draft_lengths: Sequence[int | str] = (2, 4, 8)
    rounds: int = 3
    turn: int | None = 8
    versions: Sequence[int] = (1, 2, 4, 8)
    flip_dtypes: Sequence[str] = ("float32", "bfloat16", "float64")
    flip_questions: int = 8
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        lists = ("models", "batches", "tasks", "layouts", "draft_lengths", "versions", "flip_dtypes")
        for name in lists:
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given or ()))
            if not getattr(self, name) and name not in ("versions", "flip_dtypes"):
                raise SettingsError(f"{name} names none: give at least one")
        names = ("questions", "prompt", "generation", "rounds", "flip_questions")
        counts = [(name, getattr(self, name)) for name in names]
        counts += [(name, count) for name in ("batches", "versions") for count in getattr(self, name)]
        counts += [(name, getattr(self, name)) for name in ("turn", "threads") if getattr(self, name) is not None]
        for name, count in counts:
            if type(count) is not int or count < 1:
                raise SettingsError(f"{name} must be a whole number of at least 1, got {count!r}")


class Contest(NamedTuple):
    """What decodes: samplers and caches by name, the sampler of the knee, and every drafter beside none."""

    samplers: Mapping[str, Sampler]
    caches: Mapping[str, Cache]
    stepper: Sampler
    contenders: Sequence[Contender]


class Measured(NamedTuple):
    """All figures so far, and what could not be measured, with the reason."""

    figures: list[DraftFigures]
    forwards: list[ForwardFigures]
    flips: list[FlipFigures]
    refused: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        lists = {name: [asdict(f) for f in getattr(self, name)] for name in ("figures", "forwards", "flips")}
        return {**lists, "refused": self.refused}


class Source(NamedTuple):
    """Prompts: what they are called, one list per round, and positions to fill."""

    name: str
    rounds: list[list[Job]]
    generation: int


def bench_drafting(
    settings: DraftingBenchSettings,
    samplers: Mapping[str, Sampler | str],
    caches: Mapping[str, Cache | str],
    stepper: Sampler,
) -> dict[str, Any]:
    """Measure every drafter; prints tables per model and returns (and prints, as the last line) all figures.

    Args:
        settings: what is measured.
        samplers, caches: name -> the part, or the reason why it could not be built.
        stepper: the sampler of the knee, one position per step.

    Raises:
        SettingsError: an unknown model, task or layout; a sampler that does not fit the undrafted run.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    refused = {name: why for part in (samplers, caches) for name, why in part.items() if isinstance(why, str)}
    contest = Contest(
        {name: sampler for name, sampler in samplers.items() if isinstance(sampler, Sampler)},
        {name: cache for name, cache in caches.items() if not isinstance(cache, str)},
        stepper,
        contenders_of(settings.layouts, settings.draft_lengths),
    )
    console = Console()
    limits = measure(device, dtype)
    console.print(machine_line(device, dtype, limits), soft_wrap=True)
    found = Measured([], [], [], refused)
    for name in settings.models:
        model = built(name, device, dtype)
        for batch in settings.batches:
            _measure_batch((model, name, batch), contest, settings, limits, found)
        trained = model.tokenizer is not None
        del model
        gc.collect()
        if trained and settings.flip_dtypes:
            flips = flips_in(name, contest, settings, limits)
            found.flips.extend(flips)
            console.print(flips_table(flips), "")
    for name, why in found.refused.items():
        console.print(Text(f"refused: {name}: {why}"), soft_wrap=True)
    told = verdicts(found.figures, found.flips, found.forwards)
    console.print(*told, sep="\n", soft_wrap=True, highlight=False)
    machine = {
        "device": device_name(device), "dtype": str(dtype).removeprefix("torch."), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "limits": asdict(limits),
    }  # fmt: skip
    result = {**machine, "settings": asdict(settings), **found.as_dict(), "verdicts": told}
    print(json.dumps(result))
    return result


def _measure_batch(
    where: tuple[LanguageModel, str, int],
    contest: Contest,
    settings: DraftingBenchSettings,
    limits: Limits,
    found: Measured,
) -> None:
    """All sources of prompts for one model and batch size, and the knee; prints their tables."""
    model, _, batch = where
    console = Console()
    for source in sources(model, settings, batch):
        figures, refusals = measure_source(where, source, contest, settings, limits)
        found.refused.update(refusals)
        found.figures.extend(figures)
        console.print(forwards_table(figures), "", seconds_table(figures), "")
    saturation_point = knees(where, contest, settings, limits)
    found.forwards.extend(saturation_point)
    if saturation_point:
        console.print(knee_table(saturation_point), "")


def contenders_of(layouts: Sequence[str], lengths: Sequence[int | str], again: bool = True) -> list[Contender]:
    """Nothing drafted, twice where asked, then every layout at every length.

    Raises:
        SettingsError: a layout or a length that FreeDave does not know.
    """
    plain = [Contender(UNDRAFTED), *([Contender(AGAIN)] if again else [])]
    return plain + [
        Contender(f"{layout} {length}", drafter(layout, length), layout, length)
        for layout in layouts
        for length in lengths
    ]


def drafter(layout: str, length: int | str) -> FreeDave:
    """FreeDave with these settings."""
    asked: dict[str, Any] = {"draft_length": length, "layout": layout}
    return FreeDave(**asked)


def sources(model: LanguageModel, settings: DraftingBenchSettings, batch: int) -> list[Source]:
    """Held-out questions of every task for a model that can read; prompts of random tokens for the others."""
    if model.tokenizer is None:
        work = Workload(batch, settings.prompt, settings.generation, settings.generation)
        return [Source(RANDOM, random_rounds(model, work, settings.rounds), settings.generation)]
    asked = [Questions.of(task, settings.questions * settings.rounds) for task in settings.tasks]
    return [Source(q.task.name, question_jobs(model, q, settings.rounds), q.max_new_tokens) for q in asked]


def measure_source(
    where: tuple[LanguageModel, str, int],
    source: Source,
    contest: Contest,
    settings: DraftingBenchSettings,
    limits: Limits,
) -> tuple[list[DraftFigures], dict[str, str]]:
    """Figures for every sampler and cache, and what was refused."""
    figures: list[DraftFigures] = []
    refused: dict[str, str] = {}
    for cell in cells(where, contest, limits):
        peaks, refusals = fitting(cell, contest.contenders, source.rounds[0])
        refused |= refusals
        if UNDRAFTED not in peaks:
            raise SettingsError(f"{', '.join(refusals.values())} (so there is nothing to compare drafts with)")
        ready = [contender for contender in contest.contenders if contender.label in peaks]
        runs = timed(cell, ready, source, settings)
        for contender in ready:
            figures.append(figures_of(cell, contender, (source.name, source.rounds), runs, peaks[contender.label]))
    return figures, refused


def cells(where: tuple[LanguageModel, str, int], contest: Contest, limits: Limits) -> list[Cell]:
    """Every sampler with every cache."""
    model, name, batch = where
    return [
        Cell(model, name, bound(model, sampler), sampler_name, cache, cache_name, batch, limits)
        for sampler_name, sampler in contest.samplers.items()
        for cache_name, cache in contest.caches.items()
    ]


def timed(
    cell: Cell, contenders: Sequence[Contender], source: Source, settings: DraftingBenchSettings
) -> list[dict[str, DraftRun]]:
    """Whole decodes: per round the run of every contender, by label."""
    rounds = []
    with Progress(console=Console(stderr=True), transient=True, refresh_per_second=1) as progress:
        what = f"{cell.name} x{cell.batch} {source.name} {cell.sampler_name} {cell.cache_name}"
        bar = progress.add_task(what, total=len(source.rounds) * len(contenders))
        for number, jobs in enumerate(source.rounds):
            turns = list(contenders)
            random.Random(number).shuffle(turns)
            runs = {contender.label: DraftRun.of(cell, contender, jobs) for contender in turns}
            while left := [run for run in runs.values() if not run.decode.done]:
                for run in left:
                    run.decode.advance(settings.turn)
                    progress.advance(bar, int(run.decode.done))
            rounds.append({contender.label: runs[contender.label] for contender in contenders})
    return rounds


def knees(
    where: tuple[LanguageModel, str, int], contest: Contest, settings: DraftingBenchSettings, limits: Limits
) -> list[ForwardFigures]:
    """What a forward of several versions costs, per cache and layout."""
    several = [number for number in settings.versions if number > 1]
    if not several:
        return []
    model, name, batch = where
    block = contest.stepper.blocks.longest(settings.generation)
    work = Workload(batch, settings.prompt, block, block)
    contenders = contenders_of(settings.layouts, several, again=False)
    figures: list[ForwardFigures] = []
    for cache_name, cache in contest.caches.items():
        cell = Cell(model, name, bound(model, contest.stepper), contest.stepper.name, cache, cache_name, batch, limits)
        figures += measure_knee(cell, contenders, work, 2 * settings.rounds)
    return figures


def flips_in(name: str, contest: Contest, settings: DraftingBenchSettings, limits: Limits) -> list[FlipFigures]:
    """How many answers and positions differ from the undrafted run, in every number format asked for."""
    figures: list[FlipFigures] = []
    device = pick_device(settings.device)
    asked = [Questions.of(task, settings.flip_questions) for task in settings.tasks]
    with Progress(console=Console(stderr=True), transient=True, refresh_per_second=1) as progress:
        per_dtype = len(asked) * len(contest.samplers) * len(contest.caches)
        bar = progress.add_task(f"{name}: answers that differ", total=len(settings.flip_dtypes) * per_dtype)
        for dtype in settings.flip_dtypes:
            model = built(name, device, pick_dtype(dtype, device))
            for questions in asked:
                (jobs,) = question_jobs(model, questions, rounds=1)
                for cell in cells((model, name, settings.flip_questions), contest, limits):
                    figures += flips_of(cell, contest.contenders, (questions.task.name, dtype), jobs)
                    progress.advance(bar)
    return figures
