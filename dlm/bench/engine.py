"""One engine for every bench: contenders decode the same prompts in turn, round after round.

Contenders take turns of a few forwards, in an order of the round, so that whatever else the machine does hits all of
them alike; ratios are taken within a round, figures are medians over the rounds.
"""

from __future__ import annotations

import gc
import json
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from statistics import median
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from dlm.api import keyed
from dlm.bench.limits import Limits, forward_cost, measure
from dlm.bench.shapes import build
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.no_cache import NoCache
from dlm.engine.result import RowResult
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models import LanguageModel
from dlm.models.loading import pick_device, pick_dtype
from dlm.speculation import FreeDave

Found = TypeVar("Found")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the settings of every bench share, and how all of them are checked.

    Attributes:
        device, dtype: where and in which number format; None is the default of :func:`dlm.load`.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        SettingsError: a number that is none or too small, an empty list.
    """

    MAY_BE_ZERO: ClassVar[Sequence[str]] = ()
    MAY_BE_EMPTY: ClassVar[Sequence[str]] = ()
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        kinds = {f.name: str(f.type) for f in fields(self)}
        for name in (name for name, kind in kinds.items() if kind.startswith("Sequence")):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | int) else tuple(given or ()))
            if not getattr(self, name) and name not in self.MAY_BE_EMPTY:
                raise SettingsError(f"{name} names none: give at least one")
        for name, kind in kinds.items():
            given, least = getattr(self, name), int(name not in self.MAY_BE_ZERO)
            counts = given if kind == "Sequence[int]" else [given] if kind in ("int", "int | None") else ()
            for count in counts:
                left_out = count is None and kind == "int | None"
                if not left_out and (type(count) is not int or count < least):
                    raise SettingsError(f"{name} must be a whole number of at least {least}, got {count!r}")


Own = TypeVar("Own", bound=Settings)


class Bench(Generic[Own]):
    """What is around the cells of a bench: the machine, one model at a time, what was refused, and the last line.

    Attributes:
        settings: of the bench.
        device, dtype: where and in which number format.
        console: where tables go.
        refused: what could not be measured, with the reason.
    """

    def __init__(self, settings: Own, *parts: Mapping[str, Any]) -> None:
        """``parts`` by name; a text in place of a part is the reason why it could not be built."""
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.settings = settings
        self.device = pick_device(settings.device)
        self.dtype = pick_dtype(settings.dtype, self.device)
        self.console = Console()
        self.refused = {name: why for group in parts for name, why in group.items() if isinstance(why, str)}

    @cached_property
    def limits(self) -> Limits:
        """What the machine can do, measured once."""
        return measure(self.device, self.dtype)

    @property
    def machine(self) -> dict[str, Any]:
        """Device, number format, torch's version and threads."""
        return {
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }

    def show_machine(self) -> None:
        """Print the machine and what it can do."""
        device, dtype, version, threads = self.machine.values()
        does = f"{self.limits.flops / 1e12:.3g} TFLOP/s, {self.limits.bandwidth / 1e9:.3g} GB/s of weights"
        self.console.print(f"{device}, {dtype}, {threads} threads, torch {version}: {does}", soft_wrap=True)

    def model(self, name: str, dtype: str | None = None) -> LanguageModel:
        """The model of a shape (:func:`dlm.bench.shapes.build`); memory of one that nobody holds any more is freed."""
        gc.collect()
        return build(name, self.device, self.dtype if dtype is None else pick_dtype(dtype, self.device))

    def report(self, lines: Sequence[str] = (), **figures: Any) -> dict[str, Any]:
        """Print what was refused, these lines, and as the last line everything as JSON, which is returned."""
        for name, why in self.refused.items():
            self.console.print(Text(f"refused: {name}: {why}"), soft_wrap=True)
        for line in lines:
            self.console.print(line, soft_wrap=True, highlight=False)
        line = json.dumps({**self.machine, "settings": asdict(self.settings), **figures}, default=vars)
        print(line)
        result: dict[str, Any] = json.loads(line)
        return result


@dataclass(frozen=True)
class Contender:
    """One line of a table."""

    label: str  # how it is called
    # sampler, cache, drafter: what decodes; no drafter: nothing drafts
    sampler: Sampler
    cache: Cache = field(default_factory=NoCache)
    drafter: FreeDave | None = None
    baseline: str = ""  # label of the line it is divided by; empty: it is a baseline itself


@dataclass(frozen=True)
class Cell:
    """What the contenders of a table share."""

    # model, name: the model, and what it is called
    model: LanguageModel
    name: str
    batch: int  # most rows decoded together
    limits: Limits | None = None  # what the machine can do; None where nobody asks

    def least(self, row: int, fed: float, scored: float) -> tuple[float, float]:
        """Seconds that arithmetic alone, and reading the weights alone, would take for a forward of ``fed`` positions
        with rows of ``row``, the head evaluated at ``scored``."""
        assert self.limits is not None
        flops, weight_bytes = forward_cost(self.model, round(fed), row, round(scored))
        return self.limits.seconds(flops, 0), self.limits.seconds(0, weight_bytes)


class Step(NamedTuple):
    """One forward of the whole batch."""

    fed: int  # positions pushed through the body, all rows together
    positions: int  # width of the step's view: positions per row, fillers included
    scored: int  # positions that the head was evaluated at, all rows together, fillers included
    # drafts, versions: drafts evaluated beside the rows, and the least number of versions of a row
    drafts: int
    versions: int
    # refresh, forward, sampler: seconds in recomputing whole rows, in other forwards, and outside the model
    refresh: float
    forward: float
    sampler: float
    wall: float  # seconds from the end of the step before to the end of this one

    @property
    def inside(self) -> float:
        """Seconds inside the model."""
        return self.refresh + self.forward

    @property
    def whole(self) -> float:
        """Seconds inside the model and outside it."""
        return self.inside + self.sampler


@dataclass
class Decode:
    """A decode that goes on when it is told to."""

    events: Generator[StepEvent | RowResult, None, None]  # what the decoder yields
    most: int | None = None  # forwards after which it is broken off; None: it goes on to the end
    steps: list[Step] = field(default_factory=list)  # the forwards so far
    results: dict[int, RowResult] = field(default_factory=dict)  # the finished rows, by their job's number
    seconds: float = 0.0  # wall time of all turns
    done: bool = False  # whether every row is finished, or the decode broken off
    _booked: dict[int, tuple[float, ...]] = field(default_factory=dict)
    _open: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, cell: Cell, contender: Contender, jobs: Sequence[Job], most: int | None = None) -> Decode:
        """All jobs, ``cell.batch`` at a time. Raises SettingsError: model, sampler, cache and drafter do not go
        together."""
        model = cell.model
        decoder = Decoder(model.backbone, model.description, contender.sampler, contender.cache, contender.drafter)
        events: Any = decoder.run(jobs, cell.batch, model.device)
        return cls(events, most)

    def advance(self, forwards: int | None = None) -> Decode:
        """Take at most so many forwards; None: all that are left."""
        first, wall = len(self.steps), 0.0
        while not self.done and (forwards is None or len(self.steps) - first < forwards):
            begin = time.perf_counter()
            event = next(self.events, None)
            wall += time.perf_counter() - begin
            if isinstance(event, StepEvent):
                self.steps.append(self._step(event, wall))
                self.seconds, wall = self.seconds + wall, 0.0
            elif event is not None:
                self.results[event.index] = event
                self._open.pop(event.index, None)
            if event is None or len(self.steps) == self.most:
                self.events.close()  # nothing of the decode stays in memory
                self.done = True
        self.seconds += wall
        return self

    def _step(self, event: StepEvent, wall: float) -> Step:
        """What the step added to the rows' accounts, which run on from step to step."""
        added = [0.0, 0.0, 0.0, 0.0]
        for row in event.rows:
            now = row.token_forwards, row.seconds_refresh, row.seconds_step, row.seconds_sampler
            before = self._booked.get(row.job.index, (0, 0.0, 0.0, 0.0))
            added = [total + new - old for total, new, old in zip(added, now, before, strict=True)]
            self._booked[row.job.index] = now
        fed, refresh, forward, sampler = added
        drafts, width = [row.drafts for row in event.rows], event.view.positions.shape[1]
        # With drafts the view shows several steps side by side; each of them scores what was open before them.
        opened = max(self._open.get(row.job.index, 0) for row in event.rows)
        shown = opened if max(drafts) and opened else width
        self._open |= {row.job.index: row.block_open for row in event.rows}
        scored = len(event.rows) * (1 + max(drafts)) * shown
        return Step(int(fed), width, scored, sum(drafts), 1 + min(drafts), refresh, forward, sampler, wall)


class Turns(NamedTuple):
    """What is decoded, and how contenders take turns."""

    rounds: Sequence[Sequence[Job]]  # the jobs of every round
    # forwards after which the next one has its turn; None: the whole decode at once (the contenders are not all in
    # memory then)
    turn: int | None = None
    most: int | None = None  # forwards of each decode; None: all
    # the baseline comes first in a round and again after so many others, and the middle one of its decodes counts;
    # None: it comes once, anywhere
    between: int | None = None


Round = Mapping[str, Decode]


class Measured(SimpleNamespace):
    """The figures of one line of a table, and of the JSON under the same names; explained where they are computed."""


def decode_rounds(cell: Cell, contenders: Sequence[Contender], turns: Turns, what: str) -> list[Round]:
    """Per round the decode of every contender, by label. ``what`` stands beside the bar that shows how far it is."""
    rounds: list[Round] = []
    with Progress(console=Console(stderr=True), transient=True, refresh_per_second=1) as progress:
        bar = progress.add_task(what, total=None)
        for number, jobs in enumerate(turns.rounds):
            order = _order(contenders, number, turns.between)
            decodes = [(c.label, Decode.of(cell, c, jobs, turns.most)) for c in order]
            each = turns.most or sum(len(job.writable) for job in jobs) / min(cell.batch, len(jobs))
            progress.update(bar, total=len(turns.rounds) * len(order) * each)
            while left := [decode for _, decode in decodes if not decode.done]:
                for decode in left:
                    before = len(decode.steps)
                    decode.advance(turns.turn)
                    progress.advance(bar, each - before if decode.done else len(decode.steps) - before)
            rounds.append({c.label: _middle([d for label, d in decodes if label == c.label]) for c in contenders})
    return rounds


def _order(contenders: Sequence[Contender], number: int, between: int | None) -> list[Contender]:
    """The turns of a round. What a contender leaves in the processor's caches must not always hit the same one."""
    turns = [c for c in contenders if between is None or c.baseline]
    random.Random(number).shuffle(turns)
    if between is None:
        return turns
    (base,) = (c for c in contenders if not c.baseline)
    repeated = [base]
    for place, contender in enumerate(turns, start=1):
        repeated += [contender] if place % between else [contender, base]
    return repeated


def _middle(decodes: Sequence[Decode]) -> Decode:
    return sorted(decodes, key=lambda decode: sum(step.sampler for step in decode.steps))[len(decodes) // 2]


def paired(rounds: Sequence[Round], contender: Contender) -> list[tuple[Decode, Decode]]:
    """Per round the contender's decode and its baseline's."""
    return [(decodes[contender.label], decodes[contender.baseline or contender.label]) for decodes in rounds]


def tried(
    contenders: Sequence[Contender], look: Callable[[Contender], Found]
) -> tuple[dict[str, Found], dict[str, str]]:
    """What is found at each, by label, and why others would not decode this. Raises SettingsError: a baseline would
    not."""
    found: dict[str, Found] = {}
    refused: dict[str, str] = {}
    for contender in contenders:
        try:
            found[contender.label] = look(contender)
        except SettingsError as error:
            if not contender.baseline:
                raise
            refused[contender.label] = str(error)
    return found, refused


def ratio_figures(pairs: Sequence[tuple[Decode, Decode]]) -> dict[str, float]:
    """``ratio``, the median over the rounds of the baseline's seconds / its own, and the least and most of them."""
    ratios = [base.seconds / own.seconds for own, base in pairs]
    return {"ratio": median(ratios), "ratio_least": min(ratios), "ratio_most": max(ratios)}


def random_rounds(cell: Cell, prompt: int, new: int, rounds: int) -> list[list[Job]]:
    """Full batches of random prompts, others in every round; one more than asked for, to warm up with, comes first."""
    return [random_jobs(cell.model, cell.batch, prompt, new, seed) for seed in range(rounds + 1)]


def random_jobs(model: LanguageModel, rows: int, prompt: int, new: int, seed: int) -> list[Job]:
    """Rows of ``prompt`` random tokens and ``new`` masked positions after them. Equal seeds give equal rows."""
    generator = torch.Generator().manual_seed(seed)
    top = min(model.description.mask_id, model.description.valid_vocab)
    low, high = (0, top) if top > 0 else (1, model.description.valid_vocab)
    return filled_jobs(model, torch.randint(low, high, (rows, prompt), generator=generator).tolist(), new, seed)


def filled_jobs(model: LanguageModel, prompts: Sequence[Sequence[int]], new: int, seed: int = 0) -> list[Job]:
    """One row per prompt: the prompt, and ``new`` masked positions after it."""
    masks = [model.description.mask_id] * new
    jobs = [
        Job(i, (*ids, *masks), len(ids), tuple(range(len(ids), len(ids) + new)), 0) for i, ids in enumerate(prompts)
    ]
    return keyed(jobs, seed)
