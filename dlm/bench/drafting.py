"""``dlm bench drafting``: FreeDave beside the undrafted run of the same prompts.

The undrafted run is there twice, and how far the two are apart is the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, ClassVar, NamedTuple

from rich.table import Table

from dlm import tasks
from dlm.bench import engine
from dlm.bench.differences import counted, differing, flip_lines, flips_of, flips_table
from dlm.bench.engine import Bench, Cell, Contender, Measured, Round, decode_rounds, paired, random_rounds, tried
from dlm.bench.memory import held
from dlm.bench.saturation import CAPTION, COLUMNS, measure_saturation, saturation_lines
from dlm.bench.shapes import surer
from dlm.bench.tables import Column, brief, spread, table
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.no_cache import NoCache
from dlm.engine.sampler import Sampler
from dlm.models import LanguageModel
from dlm.speculation import FreeDave
from dlm.tasks import Generated

UNDRAFTED = "none"
AGAIN = "again"
RANDOM = "random prompts"
# How much slower than not drafting a draft length that chooses itself may be.
AUTO_SLOWER = 1.05


@dataclass(frozen=True, kw_only=True)
class DraftingBenchSettings(engine.Settings):
    """Settings of the comparison, those of ``conf/bench_drafting.yaml``, which explains them."""

    MAY_BE_EMPTY: ClassVar[Sequence[str]] = ("versions", "flip_dtypes")
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


class Contest(NamedTuple):
    """What decodes: samplers and caches by name, and the sampler of the saturation point."""

    samplers: Mapping[str, Sampler]
    caches: Mapping[str, Cache]
    stepper: Sampler

    def ways(self, model: LanguageModel) -> Iterator[tuple[str, str, Sampler, Cache]]:
        """Every sampler with every cache, with their names; texts are turned into ids."""
        for sampler, made in self.samplers.items():
            for cache, policy in self.caches.items():
                yield sampler, cache, made.bind(model.tokenizer, model.description.valid_vocab), policy


class Prompts(NamedTuple):
    """Prompts: what they are called, and the jobs of every round."""

    name: str
    rounds: Sequence[Sequence[Job]]


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
        stepper: the sampler of the saturation point, one position per step.

    Raises:
        SettingsError: an unknown model, task or layout; a sampler that does not fit the undrafted run.
    """
    contest = Contest(
        {name: sampler for name, sampler in samplers.items() if isinstance(sampler, Sampler)},
        {name: cache for name, cache in caches.items() if not isinstance(cache, str)},
        stepper,
    )
    contenders_of(settings.layouts, settings.draft_lengths, stepper)  # a wrong one is told before anything is measured
    bench = Bench(settings, samplers, caches)
    bench.show_machine()
    figures: list[Measured] = []
    forwards: list[Measured] = []
    flips: list[Measured] = []
    for name in settings.models:
        model = surer(bench.model(name))
        for batch in settings.batches:
            cell = Cell(model, name, batch, bench.limits)
            for source in sources(cell, settings):
                here = _measured(bench, cell, source, contest)
                figures += here
                for shown in _tables(here):
                    bench.console.print(shown, "")
            if several := _saturation(settings, cell, contest):
                first = several[0]
                forwards += several
                title = f"one forward of several versions (prompt {first.prompt}, block {first.block})"
                bench.console.print(table(f"{name} x{batch}: {title}", CAPTION, COLUMNS, several), "")
        trained = model.tokenizer is not None
        del model, cell
        if trained and settings.flip_dtypes:
            counts = _flips(bench, name, contest)
            flips += counts
            bench.console.print(flips_table(counts), "")
    told = verdicts(figures, flips, forwards)
    return bench.report(
        told,
        limits=asdict(bench.limits),
        figures=figures,
        forwards=forwards,
        flips=flips,
        refused=bench.refused,
        verdicts=told,
    )


def contenders_of(
    layouts: Sequence[str], lengths: Sequence[int | str], sampler: Sampler, cache: Cache | None = None
) -> list[Contender]:
    """Nothing drafted, then every layout at every length. Raises SettingsError: a layout or a length that FreeDave does
    not know."""
    policy = NoCache() if cache is None else cache
    drafted: list[Contender] = []
    for layout in layouts:
        for length in lengths:
            asked: dict[str, Any] = {"draft_length": length, "layout": layout}
            drafted.append(Contender(f"{layout} {length}", sampler, policy, FreeDave(**asked), UNDRAFTED))
    return [Contender(UNDRAFTED, sampler, policy), *drafted]


def sources(cell: Cell, settings: DraftingBenchSettings) -> list[Prompts]:
    """Held-out questions of every task for a model that can read; prompts of random tokens for the others."""
    if cell.model.tokenizer is None:
        return [Prompts(RANDOM, random_rounds(cell, settings.prompt, settings.generation, settings.rounds)[1:])]
    each, rounds = settings.questions, settings.rounds
    return [
        Prompts(task.name, question_jobs(cell.model, task, each, rounds)) for task in map(tasks.get, settings.tasks)
    ]


def question_jobs(model: LanguageModel, task: Generated, each: int, rounds: int = 1) -> list[list[Job]]:
    """Held-out questions as jobs, ``each`` of them for every round."""
    prompts = [model.encode_chat(task.instance(i).messages) for i in range(each * rounds)]
    dealt = [prompts[number * each : (number + 1) * each] for number in range(rounds)]
    return [engine.filled_jobs(model, prompts, task.canvas) for prompts in dealt]


def _measured(bench: Bench[DraftingBenchSettings], cell: Cell, source: Prompts, contest: Contest) -> list[Measured]:
    """Figures for every sampler and cache; what was refused goes to ``bench.refused``."""
    settings = bench.settings
    figures: list[Measured] = []
    for sampler, cache, made, policy in contest.ways(cell.model):
        plain, *drafted = contenders_of(settings.layouts, settings.draft_lengths, made, policy)
        contenders = [plain, Contender(AGAIN, made, policy, baseline=UNDRAFTED), *drafted]
        peaks, refusals = tried(contenders, lambda contender: held(cell, contender, source.rounds[0]).peak)
        bench.refused |= {f"{sampler} + {cache} + {label}": why for label, why in refusals.items()}
        ready = [contender for contender in contenders if contender.label in peaks]
        what = f"{cell.name} x{cell.batch} {source.name} {sampler} {cache}"
        rounds = decode_rounds(cell, ready, engine.Turns(source.rounds, settings.turn), what)
        for contender in ready:
            figures.append(_figures(cell, contender, rounds, source, (sampler, cache, peaks[contender.label])))
    return figures


def _figures(
    cell: Cell, contender: Contender, rounds: Sequence[Round], source: Prompts, about: tuple[str, str, int]
) -> Measured:
    """Counts are means per answer over all rounds, seconds and ratios medians over the rounds. ``about``: the names of
    the sampler and the cache, and the peak memory in bytes."""
    pairs, drafter = paired(rounds, contender), contender.drafter
    own = [run for run, _ in pairs]
    counts, plain = (
        [result.counts for run in side for result in run.results.values()] for side in zip(*pairs, strict=True)
    )
    forwards, accepted, fed = (
        sum(getattr(count, name) for count in counts) for name in ("forwards", "accepted_drafts", "token_forwards")
    )
    steps = [step for run in own for step in run.steps]
    verified = sum(step.drafts for step in steps)
    outside, inside = sum(step.sampler for step in steps), sum(step.inside for step in steps)
    differ = [differing(run.results, base.results) for run, base in pairs]
    row = max(job.end for jobs in source.rounds for job in jobs)
    return Measured(
        model=cell.name,
        prompts=source.name,
        batch=cell.batch,
        answers=len(counts),  # of all rounds
        sampler=about[0],
        cache=about[1],
        drafts=contender.label,
        layout=drafter and drafter.layout,
        draft_length=drafter and drafter.draft_length,
        forwards=forwards / len(counts),
        # Share of the undrafted forwards that were not needed.
        saved=1 - forwards / sum(count.forwards for count in plain),
        accepted=accepted / forwards,  # steps that needed no forward of their own
        accepted_share=accepted / verified if verified else None,  # of the drafts that were evaluated
        token_forwards=fed / len(counts),  # positions pushed through the body
        token_ratio=fed / sum(count.token_forwards for count in plain),
        seconds=median(run.seconds for run in own),
        **engine.ratio_figures(pairs),  # above 1 drafting is faster
        outside=outside / (outside + inside),  # share of the time outside the model
        # Seconds that arithmetic or weight reading alone would take, forward by forward.
        limit=median(sum(max(cell.least(row, step.fed, step.scored)) for step in run.steps) for run in own),
        peak=about[2],
        answers_differ=sum(answers for answers, _ in differ),  # from the undrafted run
        positions_differ=sum(positions for _, positions in differ),
    )


def _saturation(settings: DraftingBenchSettings, cell: Cell, contest: Contest) -> list[Measured]:
    """What a forward of several versions costs, per cache and layout."""
    several = [number for number in settings.versions if number > 1]
    if not several:
        return []
    row = settings.prompt, contest.stepper.blocks.longest(settings.generation)
    stepper = contest.stepper.bind(cell.model.tokenizer, cell.model.description.valid_vocab)
    figures: list[Measured] = []
    for name, cache in contest.caches.items():
        contenders = contenders_of(settings.layouts, several, stepper, cache)
        figures += measure_saturation(cell, name, contenders, row, 2 * settings.rounds)
    return figures


def _flips(bench: Bench[DraftingBenchSettings], name: str, contest: Contest) -> list[Measured]:
    """How many answers and positions differ from the undrafted run, in every number format asked for."""
    settings, figures = bench.settings, list[Measured]()
    for dtype in settings.flip_dtypes:
        cell = Cell(surer(bench.model(name, dtype)), name, settings.flip_questions)
        for task in map(tasks.get, settings.tasks):
            (jobs,) = question_jobs(cell.model, task, settings.flip_questions)
            for sampler, cache, made, policy in contest.ways(cell.model):
                contenders = contenders_of(settings.layouts, settings.draft_lengths, made, policy)
                names = {"prompts": task.name, "dtype": dtype, "sampler": sampler, "cache": cache}
                figures += flips_of(cell, names, contenders, jobs)
    return figures


_NAMES = (
    Column("sampler, cache", lambda f: f"{brief(f.sampler)}, {brief(f.cache)}", words=True),
    Column("drafts", "drafts", words=True),
)
FORWARDS = (
    *_NAMES,
    Column("for-\nwards", "forwards", ".1f"),
    Column("saved", "saved", ".0%"),
    Column("accepted\n/forward", "accepted", ".2f"),
    Column("accepted\nof all", "accepted_share", ".0%"),
    Column("fed", "token_forwards", ".0f"),
    Column("fed\nx", "token_ratio", ".2f"),
    Column("differ", lambda f: counted(f.answers_differ, f.positions_differ)),
)
SECONDS = (
    *_NAMES,
    Column("seconds", "seconds", ".3g"),
    Column("ratio", "ratio", ".2f"),
    Column("from - to", spread),
    Column("outside", "outside", ".0%"),
    Column("limit", lambda f: f"{f.limit / f.seconds:.0%}"),
    Column("MB", lambda f: f"{f.peak / 1e6:.1f}"),
)


def _tables(figures: Sequence[Measured]) -> list[Table]:
    """What drafting saves and what it feeds for it; what it costs in time and memory."""
    first = figures[0]
    about = f"{first.model} x{first.batch}, {first.prompts}"
    return [
        table(
            f"{about}: forwards, {first.answers} answers",
            "saved: of the undrafted forwards; accepted: drafts per forward, and of those evaluated; fed: positions"
            " through the body, and how many times the undrafted; differ: answers that are not the undrafted ones,"
            " positions",
            FORWARDS,
            figures,
            grouped=True,
        ),
        table(
            f"{about}: seconds",
            "ratio: undrafted / this, in seconds of the same round (above 1: faster); again: the undrafted run once"
            " more, its distance from 1 is noise; outside: share of the time outside the model; limit: time that"
            " arithmetic or weight reading alone would take, as a share; MB: peak beyond the model",
            SECONDS,
            figures,
            grouped=True,
        ),
    ]


def verdicts(figures: Sequence[Measured], flips: Sequence[Measured], forwards: Sequence[Measured]) -> list[str]:
    """What was promised, and whether it held."""
    lines = []
    if auto := [f for f in figures if f.draft_length == "auto"]:
        late = [f for f in auto if f.ratio * AUTO_SLOWER < 1]
        noise = [1 / f.ratio for f in figures if f.drafts == AGAIN]
        lines.append(
            f"draft_length=auto took at most {AUTO_SLOWER - 1:.0%} longer than no drafts in {len(auto) - len(late)} of"
            f" {len(auto)} lines (longest: {max(1 / f.ratio for f in auto):.2f} of the time; the undrafted run"
            f" repeated: {min(noise):.2f} to {max(noise):.2f})"
        )
        for f in late:
            named = f"{f.model} x{f.batch}, {f.prompts}, {f.sampler}, {f.cache}, {f.drafts}"
            lines.append(f"  longer: {named}: {1 / f.ratio:.2f} of the time")
    for model in dict.fromkeys(f.model for f in figures):
        drafted = [f for f in figures if f.model == model and f.draft_length is not None]
        differ, answers = sum(f.answers_differ for f in drafted), sum(f.answers for f in drafted)
        lines.append(f"{model}, timed runs: {differ} of {answers} drafted answers differ")
    return [*lines, *flip_lines(flips), *saturation_lines(forwards)]
