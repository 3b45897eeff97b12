"""Who is fastest without losing answers, when every sampler is tuned by the same procedure: docs/front.md.

    python scripts/bench_front.py [FOLDER] [--questions N] [--tries N] [--only NAME,NAME:freedave]

Every preset, and some with FreeDave's drafts, gets the same number of tries of `dlm tune`'s search on one half of the
packaged model's families; the cheapest setting that lost at most two points there is then asked questions of the other
half; and the other way round. Each answer is kept: a run that is killed goes on. The reference is one token a forward.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import Progress

import samplers
from dlm.configuration import Composer
from dlm.evaluation.runner import Models
from dlm.evaluation.tuning.answers import Answers, Asked, Floats
from dlm.evaluation.tuning.certificate import interval
from dlm.evaluation.tuning.plan import Plan
from dlm.evaluation.tuning.search import TRIED, Candidate, search

HALVES: tuple[tuple[str, ...], ...] = (
    ("waiting_line/shuffle", "waiting_line/replace_random", "waiting_line/remove_index", "waiting_line/sort",
     "waiting_line/copy", "arithmetic/addition", "puzzle/latin_square", "text/story"),
    ("waiting_line/insert_random", "waiting_line/remove_random", "waiting_line/replace_index",
     "waiting_line/insert_index", "waiting_line/reverse", "puzzle/sudoku", "math/word_problem"),
)  # fmt: skip
# What drafts are tried with beside every preset alone.
DRAFTED = ("threshold", "factor", "eb", "entropy_threshold", "localleap", "topk")
OURS = ("overlap", "verified")
BLOCK_MODELS = ("sdar", "llada2", "fast_dllm_v2")  # rules of the table under other names, for other models
MARGIN = 0.02
_MODELS, _COMPOSER = Models(), Composer("eval")  # read and loaded once
COSTS = ("forwards", "positions", "seconds")


@dataclass(frozen=True)
class Row:
    """A contender on one half, with the setting that the other half chose.

    Attributes:
        name, setting: as the search calls it.
        scores, losses: of every question, and against the reference on the same ones. ``[N]``
        costs: by kind, likewise.
        families: mean forwards of each family. ``[F]``
    """

    name: str
    setting: str
    scores: Floats
    losses: Floats
    costs: dict[str, Floats]
    families: Floats

    @property
    def verdict(self) -> str:
        """Whether it is shown to lose at most the margin, at 95 %."""
        low, high = interval(self.losses)
        return "no worse" if high <= MARGIN else "worse" if low > MARGIN else "open"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("front"))
    parser.add_argument("--questions", type=int, default=500, help="of each family that is reported")
    parser.add_argument("--tries", type=int, default=8, help="settings that are looked at, of every contender")
    parser.add_argument("--choose", type=int, default=96, help="questions of one half that settings are chosen by")
    parser.add_argument("--only", default="", help="contenders, by comma; none: all")
    parser.add_argument("--output", type=Path, help="where to write the page, as docs/front.md; none: nowhere")
    given = parser.parse_args()
    names = [n for n in samplers.PRESETS if n not in BLOCK_MODELS] + [f"{n}:freedave" for n in DRAFTED]
    names = [name for name in names if not given.only or name in given.only.split(",")]
    tables: list[list[Row]] = []
    with Progress() as bar:
        work = bar.add_task("", total=len(HALVES) * (len(names) + 1))
        for half, tuned in enumerate(HALVES):
            reported = HALVES[1 - half]
            rows, reference = [], None
            for name in ["reference", *names]:
                bar.update(work, description=f"half {half + 1}: {name}", advance=1)
                setting = None if name == "reference" else _tuned(name, tuned, given)
                row = _reported(name, setting, reported, reference, given)
                if row is not None:
                    rows.append(row)
                    reference = reference if reference is not None else row
            tables.append(rows)
    page = _page(tables, given)
    if given.output is not None:
        given.output.write_text(page, encoding="utf-8")
        print(f"written: {given.output}", file=sys.stderr)
    return 0


def _plan(name: str, tasks: Sequence[str], given: argparse.Namespace, place: str) -> tuple[Plan, Answers]:
    sampler, _, drafting = name.partition(":")
    plan = Plan.of([
        f"task=[{','.join(tasks)}]", f"space.samplers=[{sampler}]", "space.blocks=[auto]", "space.caches=[none]",
        f"space.drafting=[{drafting or 'none'}]", f"tries={given.tries}", f"choose={given.choose}", f"epsilon={MARGIN}",
        f"out={given.folder / place / name.replace(':', '-')}",
    ])  # fmt: skip
    return plan, Answers(plan.base, plan.tasks, plan.cost, given.folder / "answers", None, _MODELS, 0, _COMPOSER)


def _tuned(name: str, tasks: tuple[str, ...], given: argparse.Namespace) -> Candidate | None:
    """The cheapest setting of the tries that loses at most the margin of the choosing questions, else the one that
    loses least."""
    plan, answers = _plan(name, tasks, given, f"half-{1 + HALVES.index(tasks)}")
    plan.out.mkdir(parents=True, exist_ok=True)
    questions = [point.questions for point in answers.points(plan.reference)]
    answers.asked = Asked.of(questions, given.choose + 256, plan.seed)  # as many as a certificate would take
    reference = Candidate("reference", list(plan.reference), prospect=1.0)
    reference.ask(answers, 0, given.choose)
    tried = [c for c in search(plan, answers, reference, lambda number, one: None) if len(c.losses)]
    whole = [c for c in tried if c.status == TRIED] or tried
    fine = [c for c in whole if c.losses.mean() <= MARGIN]
    return min(fine, key=lambda c: c.cost) if fine else min(whole, key=lambda c: c.losses.mean(), default=None)


def _reported(
    name: str, setting: Candidate | None, tasks: Sequence[str], reference: Row | None, given: argparse.Namespace
) -> Row | None:
    plan, answers = _plan("topk" if reference is None else name, tasks, given, "unused")
    if reference is not None and setting is None:
        return None
    overrides = list(plan.reference) if setting is None else setting.overrides
    places = tuple((task, i) for i in range(given.questions) for task in range(len(tasks)))
    answers.asked = Asked(places, (given.questions,) * len(tasks))
    costs = {}
    for kind in COSTS:
        answers.cost = kind
        scores, costs[kind] = answers.get(overrides, 0, len(places))
    losses = (scores if reference is None else reference.scores) - scores
    families = costs["forwards"].reshape(-1, len(tasks)).mean(axis=0)
    return Row(name, "" if setting is None else setting.label, scores, losses, costs, families)


_ABOUT = """`make bench-front` tunes every preset by the same procedure: {tries} tries of `dlm tune`'s search, the first
as published, on {choose} questions of one half of the packaged model's families. The cheapest setting that loses at
most two points there (else the one that loses least) is asked {questions} questions of each family of the other half.
No cache, blocks of the preset's own, FreeDave's drafts where the name says so. `loss`: against one token a forward on
the same questions, in points, with the interval of a betting test at 95 %; `no worse`: shown to be at most two. `ms`:
on a machine with other work. `ratio`: geometric mean over families of the forwards, against the best single published
sampler that is no worse (or open, where none is). Ours: {ours}."""


def _page(tables: list[list[Row]], given: argparse.Namespace) -> str:
    command = " ".join(["python scripts/bench_front.py FOLDER", *sys.argv[2:]])
    about = _ABOUT.format(**vars(given), ours=", ".join(f"`{name}`" for name in OURS))
    lines = ["# The front", "", f"    {command}", "", about, ""]
    for half, rows in enumerate(tables):
        tuned, asked = HALVES[half], HALVES[1 - half]
        best = _best(rows)
        lines += [
            f"## Tuned on {_short(tuned)}; asked about {_short(asked)}", "",
            "| sampler | setting | score, % | loss | | forwards | positions | ms | ratio |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        order = {"no worse": 0, "open": 1, "worse": 2}
        for row in [rows[0], *sorted(rows[1:], key=lambda r: (order[r.verdict], _mean(r, "forwards")))]:
            low, high = interval(row.losses)
            loss = "" if row is rows[0] else f"{100 * row.losses.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"
            ratio = _ratio(row, best)
            verdict = "" if row is rows[0] else row.verdict
            lines.append(
                f"| {row.name} | {row.setting} | {100 * row.scores.mean():.1f} | {loss} | {verdict} |"
                f" {_mean(row, 'forwards'):.2f} | {_mean(row, 'positions'):.0f} | {1000 * _mean(row, 'seconds'):.1f} |"
                f" {ratio:.2f} |"
            )
        lines += ["", *_ours(rows), ""]
    return "\n".join(lines)


def _best(rows: list[Row], drafted: bool = False) -> Row:
    """The published sampler that the others are measured by; ``drafted``: among those with drafts."""
    known = [
        row for row in rows[1:] if (":" in row.name) == drafted and row.name not in OURS and row.verdict != "worse"
    ]
    sure = [row for row in known if row.verdict == "no worse"]
    return min(sure or known or rows[:1], key=lambda row: float(np.log(row.families).mean()))


def _ours(rows: list[Row]) -> list[str]:
    """A line for each rule of our own."""
    single, drafted = _best(rows), _best(rows, True)
    ours = [(row, _ratio(row, single), _ratio(row, drafted)) for row in rows if row.name in OURS]
    return [
        f"`{row.name}` ({row.verdict}) takes {alone:.2f} of the forwards of the best single published sampler"
        f" (`{single.name}`) and {beside:.2f} of those of the best one with drafts (`{drafted.name}`)."
        for row, alone, beside in ours
    ]


def _ratio(row: Row, other: Row) -> float:
    return math.exp(float(np.log(row.families / other.families).mean()))


def _mean(row: Row, kind: str) -> float:
    return float(row.costs[kind].mean())


def _short(tasks: Sequence[str]) -> str:
    return ", ".join(task.rpartition("/")[2] for task in tasks)


if __name__ == "__main__":
    sys.exit(main())
