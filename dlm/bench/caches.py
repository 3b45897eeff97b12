"""``dlm bench caches``: what each cache saves and costs, beside no cache, on the same model, prompts and sampler.

Every figure comes from whole generations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median, quantiles
from typing import Any, ClassVar

from rich.table import Table

from dlm.bench import engine
from dlm.bench.engine import Bench, Cell, Contender, Measured, Round, decode_rounds, paired, random_rounds, tried
from dlm.bench.memory import Held, held
from dlm.bench.shapes import surer
from dlm.bench.tables import Column, short, spread, table
from dlm.bench.token_forwards import Paper, on_paper
from dlm.engine.interfaces import Cache
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models import LanguageModel

NONE = "none"
Drift = tuple[float | None, float | None]
About = tuple[Held, float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class CachesBenchSettings(engine.Settings):
    """Settings of the comparison, those of ``conf/bench_caches.yaml``, which explains them; the drift is measured over
    all positions to fill at most."""

    MAY_BE_ZERO: ClassVar[Sequence[str]] = ("drift",)
    shapes: Sequence[str] = ("body",)
    batches: Sequence[int] = (1,)
    prompt: int = 512
    generation: int = 256
    rounds: int = 1
    turn: int | None = 32
    drift: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "drift", min(self.drift, self.generation))


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
    bench = Bench(settings, caches)
    block = sampler.blocks.longest(settings.generation)
    bench.show_machine()
    figures: list[Measured] = []
    for shape in settings.shapes:
        model = surer(bench.model(shape))
        contenders, refusals = matched(model, caches, sampler, ahead)
        bench.refused |= refusals
        drifts = {c.label: _drift(model, c, settings) for c in contenders}
        for batch in settings.batches:
            cell = Cell(model, shape, batch, bench.limits)
            figures += _measured(bench, cell, contenders, drifts, block)
        del model, cell
    return bench.report(
        limits=asdict(bench.limits),
        sampler=sampler.name,
        block=block,
        figures=figures,
        refused=bench.refused,
    )


def matched(
    model: LanguageModel, caches: Mapping[str, Cache | str], sampler: Sampler, ahead: Sampler | str
) -> tuple[list[Contender], dict[str, str]]:
    """The lines of the table, and why the other caches go with neither sampler."""
    lines = {NONE: Contender(NONE, sampler)}
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
        lines.setdefault(base, Contender(base, fitting))
        lines[label] = Contender(label, fitting, cache, baseline=base)
    return list(lines.values()), refused


def _measured(
    bench: Bench[CachesBenchSettings],
    cell: Cell,
    contenders: Sequence[Contender],
    drifts: Mapping[str, Drift],
    block: int,
) -> list[Measured]:
    """Figures of every contender, printed; what would not decode this goes to ``bench.refused``."""
    settings = bench.settings
    first, *jobs = random_rounds(cell, settings.prompt, settings.generation, settings.rounds)
    memory, refusals = tried(contenders, lambda contender: held(cell, contender, first))
    bench.refused |= refusals
    ready = [contender for contender in contenders if contender.label in memory]
    rounds = decode_rounds(cell, ready, engine.Turns(jobs, settings.turn), f"{cell.name} x{cell.batch}")
    paper = Paper(settings.prompt, settings.generation, block)
    figures = []
    for contender in ready:
        about = (memory[contender.label], *drifts[contender.label])
        figures.append(_figures(cell, contender, rounds, paper, about))
    fastest_first = sorted(figures, key=lambda f: -f.ratio)
    for shown in _tables(fastest_first, settings.drift):
        bench.console.print(shown, "")
    bench.console.print(
        _noise_line([step for decodes in rounds for step in decodes[NONE].steps]),
        *_cached_step_lines(cell, figures, block),
        "",
        sep="\n",
        soft_wrap=True,
        highlight=False,
    )
    return figures


def _figures(cell: Cell, contender: Contender, rounds: Sequence[Round], paper: Paper, about: About) -> Measured:
    """Medians over the rounds; a ratio is taken within each round."""
    pairs = paired(rounds, contender)
    own = [decode for decode, _ in pairs]
    seconds = [decode.seconds for decode in own]
    steps = [step for decode in own for step in decode.steps]
    parts = {part: sum(getattr(step, part) for step in steps) for part in ("refresh", "forward", "sampler")}
    fed, fed_base = (mean(sum(s.fed for s in d.steps) / cell.batch for d in side) for side in zip(*pairs, strict=True))
    cached = [s for s in steps if not s.refresh]
    one_each = len(own[0].steps) == paper.generation and paper.generation % paper.block == 0
    arithmetic, weights, limit = (
        median(values) for values in zip(*(_limits(cell, decode, paper.row) for decode in own), strict=True)
    )
    memory, kl, agreement = about
    return Measured(
        shape=cell.name,
        batch=cell.batch,
        prompt=paper.prompt,
        generation=paper.generation,
        cache=contender.label,
        sampler=contender.sampler.name,
        forwards=round(median(len(d.steps) for d in own)),  # of a whole generation
        refreshes=round(median(sum(s.refresh > 0 for s in d.steps) for d in own)),  # those that recomputed a row whole
        token_forwards=fed,  # positions that one row pushed through the body, mean over the rows
        # The same by the closed form, where there is one.
        on_paper=on_paper(contender.label.partition(",")[0], contender.cache, paper) if one_each else None,
        seconds=median(seconds),
        seconds_least=min(seconds),
        seconds_most=max(seconds),
        tokens_per_second=cell.batch * paper.generation / median(seconds),
        **engine.ratio_figures(pairs),  # seconds without a cache / seconds, in the same round
        ratio_on_paper=fed_base / fed,  # the same of token-forwards
        **{f"share_{part}": spent / sum(parts.values()) for part, spent in parts.items()},
        arithmetic=arithmetic,  # seconds that it alone would take
        weights=weights,  # seconds that reading them alone, at every step, would take
        limit=limit,  # the longer of the two, step by step
        # Seconds inside the model of a step that recomputed no row whole, and positions the batch fed at it.
        cached_step=median(s.inside for s in cached) if cached else None,
        cached_fed=median(s.fed for s in cached) if cached else None,
        **asdict(memory) | ({} if cell.model.device.type == "cuda" else {"peak": None}),  # a CPU gives nothing back
        kl=kl,  # drift, where it was measured
        agreement=agreement,
    )


def _limits(cell: Cell, decode: engine.Decode, row: int) -> tuple[float, float, float]:
    """Seconds of arithmetic alone, of reading the weights alone, and of the longer one at each step."""
    each = [cell.least(row, step.fed, step.scored) for step in decode.steps]
    arithmetic, weights = map(sum, zip(*each, strict=True))
    return arithmetic, weights, sum(map(max, each))


def _drift(model: LanguageModel, contender: Contender, settings: CachesBenchSettings) -> Drift:
    """Mean divergence and top-1 agreement over a short generation; None where the drift cannot be told."""
    from dlm.evaluation.drift import measure as measure_drift

    if not settings.drift or not contender.baseline:
        return None, None
    (job,) = engine.random_jobs(model, 1, settings.prompt, settings.drift, seed=1)
    prompt = list(job.tokens[: settings.prompt])
    try:
        told = measure_drift(model, [prompt], contender.sampler, contender.cache, max_new_tokens=settings.drift)
    except SettingsError:
        return None, None
    return told.mean_kl, told.agreement


_CACHE = Column("cache", "cache", words=True)
TIME = (
    _CACHE,
    Column("token-\nforwards", "token_forwards", ".0f"),
    Column("per\nstep", lambda f: f"{f.token_forwards / f.forwards:.1f}"),
    Column("paper", lambda f: "-" if f.on_paper is None else f"{f.on_paper / f.forwards:.1f}"),
    Column("fewer", "ratio_on_paper", ".2f"),
    Column("seconds", lambda f: short(f.seconds)),
    Column("tok/s", lambda f: short(f.tokens_per_second)),
    Column("ratio", "ratio", ".2f"),
    Column("from - to", spread),
)
SHARES = (
    _CACHE,
    Column("steps", "forwards"),
    Column("whole\nrows", "refreshes"),
    Column("refresh", "share_refresh", ".0%"),
    Column("step", "share_forward", ".0%"),
    Column("rest", "share_sampler", ".0%"),
    Column("arith.", lambda f: short(f.arithmetic)),
    Column("weights", lambda f: short(f.weights)),
    Column("limit", lambda f: f"{f.limit / f.seconds:.0%}"),
    Column("step\nms", lambda f: "-" if f.cached_step is None else short(f.cached_step * 1000)),
)
MEMORY = (
    _CACHE,
    Column("keys, values\nMB", lambda f: f"{f.keys_values / 1e6:.2f}"),
    Column("formula\nMB", lambda f: f"{(f.formula if f.keys_values else 0) / 1e6:.2f}"),
    Column("other\nMB", lambda f: f"{f.other / 1e6:.2f}"),
    Column("peak\nMB", lambda f: "-" if f.peak is None else f"{f.peak / 1e6:.0f}"),
    Column("KL", "kl", ".2g"),
    Column("same top 1", "agreement", ".1%"),
)


def _tables(figures: Sequence[Measured], drift: int) -> list[Table]:
    """What each cache saves; where the time goes, and what the machine would allow; memory and drift."""
    first = figures[0]
    memory = [column for column in MEMORY if "peak" not in column.heading or any(f.peak is not None for f in figures)]
    about = f"{first.shape} x{first.batch}"
    return [
        table(
            f"{about}, prompt {first.prompt}, generation {first.generation}",
            "token-forwards: positions a row feeds; paper: the same per step by the closed form; fewer, ratio: none /"
            " this, in positions and in seconds of the same round",
            TIME,
            figures,
        ),
        table(
            f"{about}: where the time goes, and the machine's limits",
            "refresh, step, rest: share of the time in recomputing whole rows, in other forwards, outside the model;"
            " arith., weights: seconds that arithmetic, and reading the weights, alone would take; limit: the longer"
            " one, step by step, as a share of the time; step ms: a step that recomputes no row whole, inside the"
            " model",
            SHARES,
            figures,
        ),
        table(
            f"{about}: memory, and drift over {drift} positions",
            "formula: 2 x layers x kv_heads x head_dim x capacity x rows; other: stamps, features, masks; peak:"
            " allocated beyond the model; KL in nats",
            memory,
            figures,
        ),
    ]


def _noise_line(steps: Sequence[engine.Step]) -> str:
    """How evenly the machine worked: without a cache every step is the same work."""
    low, *_, high = quantiles([step.inside for step in steps], n=10) if len(steps) > 1 else [0.0, 0.0]
    return (
        f"noise: a step without a cache, always the same work, takes {median(s.inside for s in steps) * 1000:.1f} ms in"
        f" the model (a tenth take less than {low * 1000:.1f}, a tenth more than {high * 1000:.1f})"
    )


def _cached_step_lines(cell: Cell, figures: Sequence[Measured], block: int) -> list[str]:
    """The dual cache's step, which feeds one block, beside the time that reading the weights and arithmetic take."""
    lines = []
    for f in figures:
        if f.cache.partition(":")[0] != "dual" or f.cached_step is None:
            continue
        arithmetic, weights = cell.least(f.prompt + f.generation, block * f.batch, block * f.batch)
        rows = "" if f.batch == 1 else f" of {f.batch} rows"
        lines.append(
            f"a {block}-token cached step{rows} ({f.cache}) takes {f.cached_step * 1000:.2f} ms in the model:"
            f" {f.cached_step / weights:.2f} times the weight-reading limit ({weights * 1000:.2f} ms),"
            f" {f.cached_step / arithmetic:.2f} times the arithmetic alone ({arithmetic * 1000:.2f} ms)"
        )
    return lines
