"""``dlm bench samplers``: what a step of each sampler costs outside the model, beside the threshold rule's.

Every sampler decodes the same random canvases for a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from rich.table import Table

from dlm.bench import engine
from dlm.bench.engine import Bench, Cell, Contender, Measured, Round, decode_rounds, paired, random_rounds, tried
from dlm.bench.tables import Column, table
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models import LanguageModel, load

BASELINE = "threshold"
# A sampler above this ratio should say why (`Sampler.extra_cost`).
RATIO_TO_EXPLAIN = 3.0
TURNS_BETWEEN_BASELINES = 4


@dataclass(frozen=True, kw_only=True)
class SamplersBenchSettings(engine.Settings):
    """Settings of the comparison, those of ``conf/bench_samplers.yaml``, which explains them.

    Raises:
        SettingsError: also more than one block.
    """

    shapes: Sequence[str] = ("narrow",)
    batches: Sequence[int] = (1, 8)
    prompt: int = 32
    new: int = 32
    runs: int = 5
    steps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.new > 32:  # the length that blocks have by themselves
            raise SettingsError(f"new={self.new} is more than one block for some samplers: use at most 32")


def bench_samplers(settings: SamplersBenchSettings, samplers: Mapping[str, Sampler | str]) -> dict[str, Any]:
    """Measure every sampler; prints a table per shape and returns (and prints, as the last line) all figures.

    Args:
        settings: what is measured.
        samplers: name -> the sampler, or the reason why it could not be built. ``threshold`` must be among them.

    Raises:
        SettingsError: the threshold rule is absent or does not run; an unknown shape.
    """
    bench = Bench(settings, samplers)
    if BASELINE not in samplers or BASELINE in bench.refused:
        why = bench.refused.get(BASELINE, "it is not among the samplers")
        raise SettingsError(f"{BASELINE}, which the others are compared with, cannot be measured: {why}")
    figures: list[Measured] = []
    for shape in settings.shapes:
        here = _measured(bench, shape, samplers)
        bench.console.print(_table(shape, here, settings))
        figures += here
    unexplained = sorted({f.sampler for f in figures if f.ratio > RATIO_TO_EXPLAIN and not f.extra_cost})
    return bench.report(
        [f"above {RATIO_TO_EXPLAIN:g} without a declared reason: {', '.join(unexplained) or 'none'}"],
        baseline=BASELINE,
        figures=figures,
        refused=bench.refused,
        unexplained=unexplained,
    )


def _measured(bench: Bench[SamplersBenchSettings], shape: str, samplers: Mapping[str, Sampler | str]) -> list[Measured]:
    """The figures of a shape; what would not decode it goes to ``bench.refused``."""
    model = bench.model(shape)
    contenders = [
        Contender(name, sampler, baseline="" if name == BASELINE else BASELINE)
        for name, sampler in bound(model, samplers).items()
    ]
    return [f for batch in bench.settings.batches for f in _at(bench, Cell(model, shape, batch), contenders)]


def _at(bench: Bench[SamplersBenchSettings], cell: Cell, contenders: Sequence[Contender]) -> list[Measured]:
    """The figures of a batch size."""
    settings = bench.settings
    first, *jobs = random_rounds(cell, settings.prompt, settings.new, settings.runs)
    ready, refusals = tried(contenders, lambda c: engine.Decode.of(cell, c, first, settings.steps).advance())
    bench.refused |= refusals
    turns = engine.Turns(jobs, most=settings.steps, between=TURNS_BETWEEN_BASELINES)
    running = [contender for contender in contenders if contender.label in ready]
    rounds = decode_rounds(cell, running, turns, f"{cell.name} x{cell.batch}")
    return [_figures(cell, contender, rounds) for contender in running]


def bound(model: LanguageModel, samplers: Mapping[str, Sampler | str]) -> dict[str, Sampler]:
    """The samplers with texts turned into ids. A model with random weights has no tokenizer; the packaged one's gives
    ids that cost as much as any."""
    built = {name: sampler for name, sampler in samplers.items() if isinstance(sampler, Sampler)}
    tokenizer = model.tokenizer
    if tokenizer is None and any(sampler.binds for sampler in built.values()):
        tokenizer = load("tiny").tokenizer
    return {name: sampler.bind(tokenizer, model.description.valid_vocab) for name, sampler in built.items()}


def _per_step(decode: engine.Decode) -> tuple[float, float]:
    """Mean seconds outside the model, and of all."""
    return mean(s.sampler for s in decode.steps), mean(s.whole for s in decode.steps)


def _figures(cell: Cell, contender: Contender, rounds: Sequence[Round]) -> Measured:
    """Medians over the rounds; a ratio is taken within each round."""
    pairs = [(_per_step(own), _per_step(base)) for own, base in paired(rounds, contender)]
    return Measured(
        shape=cell.name,
        batch=cell.batch,
        sampler=contender.label,
        # Per row that the head was evaluated at for proposals; a second head pass, a shadow block and look-ahead
        # branches come on top.
        positions=mean(mean(s.positions for s in decodes[contender.label].steps) for decodes in rounds),
        seconds_sampler=median(outside for (outside, _), _ in pairs),
        seconds_step=median(whole for (_, whole), _ in pairs),
        ratio=median(own[0] / base[0] for own, base in pairs),
        ratio_step=median(own[1] / base[1] for own, base in pairs),
        extra_cost=contender.sampler.extra_cost,
    )


def _table(shape: str, figures: Sequence[Measured], settings: SamplersBenchSettings) -> Table:
    """Samplers downwards, the cheapest first."""
    by_name: dict[str, list[Measured]] = {}
    for f in figures:
        by_name.setdefault(f.sampler, []).append(f)
    kinds: Sequence[tuple[str, Callable[[Measured], str]]] = (
        ("\nms", lambda f: f"{f.seconds_sampler * 1000:.1f}"),
        ("\nratio", lambda f: f"{f.ratio:.2f}"),
        ("step\nratio", lambda f: f"{f.ratio_step:.2f}"),
    )

    def at(cell: Callable[[Measured], str], batch: int) -> Callable[[Any], str]:
        return lambda line: next((cell(f) for f in line if f.batch == batch), "-")

    columns = [
        Column("sampler", lambda line: line[0].sampler, words=True),
        Column("scored", lambda line: f"{line[0].positions:.1f}"),
        *(Column(f"{heading}\nx{batch}", at(cell, batch)) for heading, cell in kinds for batch in settings.batches),
        Column("declared cost", lambda line: line[0].extra_cost, words=True, width=16),
    ]
    return table(
        f"{shape}: {settings.new} positions open, first {settings.steps} steps, median of {settings.runs} rounds",
        "ms, ratio: a step without the model's body and head; step ratio: all of it",
        columns,
        sorted(by_name.values(), key=lambda line: max(f.ratio for f in line)),
    )
