"""A tuning from end to end: the reference, the search, the shortlist, the certificate."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.markup import escape

from dlm.errors import SettingsError
from dlm.evaluation.lines import LineFile
from dlm.evaluation.progress import LINE_EVERY, progress_bar
from dlm.evaluation.store import read_json
from dlm.evaluation.tuning.answers import Answers, Unanswered
from dlm.evaluation.tuning.certificate import CERTIFIED, OPEN, UNDECIDED, shortlist, verdict
from dlm.evaluation.tuning.plan import RECORD, Plan
from dlm.evaluation.tuning.search import PRUNED, REFUSED, TRIED, Candidate, search
from dlm.evaluation.tuning.space import settings_of
from dlm.files import write_json, write_whole

STEP = 64  # certifying questions between two looks
SETTINGS, CERTIFICATE, LOCK = "tuned.yaml", "certificate.json", "lock"
NOT_REACHED = "not reached"
Tell = Callable[[str, int, int | None], None]  # what is being done, how far it is, and of how much


@dataclass(frozen=True)
class Tuned:
    """What a tuning found.

    Attributes:
        plan: what was asked for.
        reference: what the others are compared with.
        candidates: every setting that was looked at.
        chosen: the cheapest of the shortlist that is certified; None: none is.
        questions: hashes of the choosing and of the certifying questions.
        decoded: answers that this run made.
    """

    plan: Plan
    reference: Candidate
    candidates: list[Candidate]
    chosen: Candidate | None
    questions: dict[str, str]
    decoded: int

    @property
    def front(self) -> list[Candidate]:
        """Settings worth showing, cheapest first: the shortlist, and of the others those that no cheaper one beats."""
        shown, best = [], np.inf
        for one in sorted(self.candidates, key=lambda c: (c.cost, c.losses.sum())):
            free = one.status == TRIED and one.losses.mean() < best
            if free or one.status not in (TRIED, PRUNED, REFUSED):
                shown.append(one)
            best = min(best, one.losses.mean()) if free else best
        return shown

    @property
    def nearest(self) -> Candidate | None:
        """Where nothing is certified: what came nearest to it, of what is cheaper than the reference."""
        asked = [c for c in self.candidates if c.cost < self.reference.cost]
        return max(asked, key=lambda c: (c.test.log_wealth if c.test else -np.inf, c.prospect), default=None)


def tune(overrides: Sequence[str] = (), *, out: str | Path | None = None, quiet: bool = True) -> Tuned:
    """Find the setting with the least cost whose expected score is at most ``epsilon`` below the reference's, with
    probability 1 - ``delta``; what is done already is not done again.

    Args:
        overrides: ``key=value``, as ``dlm tune`` takes them (``conf/tune.yaml``).
        out: the folder (``out=``).
        quiet: show no progress.

    Raises:
        SettingsError: what cannot be read; too few questions; a reference that scores 0; a folder of another tuning.
        StorageError: the folder cannot be written to, or another run holds it.
    """
    plan = Plan.of(list(overrides) if out is None else [*overrides, f"out={out}"])
    answers = Answers(plan.base, plan.tasks, plan.cost, plan.out / "answers")
    points = answers.points(plan.reference)
    questions = [point.questions for point in points]
    asked = answers.asked = plan.draw(questions)
    plan.claim(points)
    with closing(LineFile(plan.out / LOCK)), _telling(quiet) as tell:
        tell("the reference on the choosing questions", 0, None)
        reference = Candidate("reference", list(plan.reference), "reference", prospect=1.0)
        reference.ask(answers, 0, plan.choose)
        for task, one in enumerate(questions):
            mine = [s for s, (at, _) in zip(reference.scores, asked.places, strict=False) if at == task]
            if mine and not any(mine):
                raise SettingsError(
                    f"the reference scores 0 on all {len(mine)} choosing questions of {one.task.name}, so any setting"
                    " would do: take another task, another reference=, or a model that can answer it"
                )

        def looked(number: int, c: Candidate) -> None:
            tell(f"{c.label}: {c.reason or f'{c.cost:.2f} {plan.cost}'}", number, plan.tries)

        candidates = search(plan, answers, reference, looked)
        chosen = _certify(plan, answers, candidates, reference, tell)
    parts = {"choosing": (0, plan.choose), "certifying": (plan.choose, answers.most)}
    hashes = {name: asked.hash(questions, *part) for name, part in parts.items()}
    tuned = Tuned(plan, reference, candidates, chosen, hashes, answers.decoded)
    _write(tuned)
    return tuned


def _certify(
    plan: Plan, answers: Answers, candidates: list[Candidate], reference: Candidate, tell: Tell
) -> Candidate | None:
    """Test the shortlist, cheapest first, until one is certified."""
    cheaper = [c for c in candidates if c.status == TRIED and c.cost < reference.cost]
    places = shortlist([c.cost for c in cheaper], [c.prospect for c in cheaper], plan.shortlist)
    chosen, most = None, answers.most - plan.choose
    for number, one in enumerate(cheaper[place] for place in places):
        if chosen is not None:
            one.status = NOT_REACHED
            continue
        asked, found = Candidate(one.label, one.overrides), None
        while found is None or found.status == OPEN:
            tell(f"certifying {one.label} ({number + 1} of {len(places)})", len(asked.scores), most)
            first = plan.choose + len(asked.scores)
            last = min(first + STEP, plan.choose + most)
            if last > len(reference.scores):
                reference.ask(answers, len(reference.scores), last)
            try:
                asked.ask(answers, first, last)
            except Unanswered as error:
                one.status, one.reason = UNDECIDED, str(error)
                break
            asked.losses = reference.scores[plan.choose : last] - asked.scores
            found = verdict(one.losses, asked.losses, plan.epsilon, plan.level, most)
        else:
            one.status, one.test, n = found.status, found, found.n
            one.scores, one.costs, one.losses = asked.scores[:n], asked.costs[:n], asked.losses[:n]
            chosen = one if found.status == CERTIFIED else None
    reference.losses = np.zeros(len(reference.scores))
    return chosen


def _write(tuned: Tuned) -> None:
    """The certificate, and the setting where there is one."""
    plan, chosen = tuned.plan, tuned.chosen
    about = {key: getattr(plan, key) for key in ("epsilon", "delta", "cost", "tries", "shortlist", "choose", "seed")}
    about |= {"looked_at": len(tuned.candidates), "tested": sum(c.test is not None for c in tuned.candidates)}
    tail = {"questions": tuned.questions, "command": shlex.join(["dlm", "tune", *plan.words])}
    listed = [_plain(c) for c in (tuned.reference, *tuned.candidates)]
    record = {**about, "level": plan.level, **tail, "reference": listed[0], "candidates": listed[1:]}
    write_json(plan.out / CERTIFICATE, record)
    if chosen is None:
        return
    shared = plan.shared
    if not any(o.startswith("model=") for o in shared):
        shared.insert(0, f"model={read_json(plan.out / RECORD)['model']['choice']}")
    whole = {
        "settings": settings_of([*shared, *chosen.overrides]),
        "promise": f"with probability {1 - plan.delta:g} the expected score is at most {plan.epsilon:g} below that of"
        f" {' '.join(plan.reference)}",
        "tasks": [" ".join(task) for task in plan.tasks],
        "certificate": {**about, "file": CERTIFICATE, "found": _plain(chosen)},
        **tail,
    }
    head = "# Found by `dlm tune`; any command takes it as experiment=THIS_FILE. Its settings are read as data.\n"
    write_whole(plan.out / SETTINGS, head + yaml.safe_dump(whole, sort_keys=False, width=110))


def _plain(c: Candidate) -> dict[str, Any]:
    about = {"label": c.label, "overrides": c.overrides, "status": c.status, "reason": c.reason}
    return {**about, **c.figures, "test": asdict(c.test) if c.test else None}


@contextmanager
def _telling(quiet: bool) -> Iterator[Tell]:
    """A bar on a terminal, a line now and then elsewhere."""
    with progress_bar(quiet=quiet) as bar:
        task, told = bar.add_task("", total=None), [0.0]

        def tell(what: str, done: int, total: int | None) -> None:
            bar.update(task, description=escape(what), completed=done, total=total)
            if bar.disable and not quiet and time.monotonic() - told[0] > LINE_EVERY:
                told[0] = time.monotonic()
                print(f"dlm: {f'{done} of {total}: ' if total else ''}{what}", file=sys.stderr, flush=True)

        yield tell
