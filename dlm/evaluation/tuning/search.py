"""The search: Optuna proposes settings, the choosing questions judge them. What it finds carries no promise."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dlm.errors import SettingsError
from dlm.evaluation.point import canonical
from dlm.evaluation.tuning.answers import Answers, Floats, Unanswered
from dlm.evaluation.tuning.certificate import Verdict, interval, prospect
from dlm.evaluation.tuning.plan import Plan
from dlm.evaluation.tuning.space import Setting, label_of, overrides_of

STORAGE = "search.db"
LOOKS = (0.25, 0.5, 1.0)  # shares of the choosing questions after which a try may end
TRIED, PRUNED, REFUSED = "tried", "pruned", "refused"
STALE = 4  # times as many proposals as tries: then what is left of the space has been seen
HOPELESS = 0.5  # the most that a setting can come to where it is given up
WORST = 3.0  # the value of a setting that could not be asked at all


@dataclass(eq=False)
class Candidate:
    """A setting that was looked at, with its figures on the last questions that it was asked."""

    label: str  # for a person
    overrides: list[str]  # for the command line
    # ``tried``, ``pruned`` (given up before all choosing questions were asked), ``refused``, ``not reached`` (on the
    # shortlist behind one that is certified), or the status of its test
    status: str = TRIED
    reason: str = ""  # why it was given up or refused
    # scores, costs, losses: [N]; the loss is the reference's score less its own
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    costs: Floats = field(default_factory=lambda: np.zeros(0))
    losses: Floats = field(default_factory=lambda: np.zeros(0))
    prospect: float = 0.0  # of being certified, by the choosing questions: 1 or more is good
    test: Verdict | None = None  # on the certifying questions; then all figures are over those

    def ask(self, answers: Answers, first: int, last: int) -> None:
        """Ask further questions. Raises SettingsError as :meth:`Answers.get` does."""
        scores, costs = answers.get(self.overrides, first, last)
        self.scores, self.costs = np.concatenate([self.scores, scores]), np.concatenate([self.costs, costs])

    @property
    def cost(self) -> float:
        """Mean cost of a question; infinite where none was asked."""
        return float(self.costs.mean()) if len(self.costs) else math.inf

    @property
    def figures(self) -> dict[str, Any]:
        """What it came to, as plain values. Without a test ``low`` and ``high`` (the loss, 95 %) take no account of its
        being chosen."""
        if not (n := len(self.scores)):
            return {"questions": 0}
        low, high = (self.test.low, self.test.high) if self.test else interval(self.losses)
        means = {"cost": self.cost, "score": float(self.scores.mean()), "loss": float(self.losses.mean())}
        return {"questions": n, **means, "low": low, "high": high, "prospect": self.prospect}


def search(
    plan: Plan, answers: Answers, reference: Candidate, tell: Callable[[int, Candidate], None]
) -> list[Candidate]:
    """Look at settings until ``plan.tries`` different ones were, or the space is used up; ``tell`` is told how many
    were, and the last one.

    Every proposal depends on the seed and on the finished tries alone, so that a search that was killed goes on as
    if it had not been. Raises SettingsError: the folder holds something else than a search.
    """
    import optuna

    states = optuna.trial.TrialState
    study = _study(optuna, plan)
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING, states.WAITING)):  # a killed run's
        study.tell(trial.number, state=states.FAIL)
    seen: dict[str, tuple[Candidate, float]] = {}

    def looked(setting: Setting) -> tuple[Candidate, float]:
        if (name := canonical(setting)) not in seen:
            seen[name] = _looked_at(setting, plan, answers, reference)
            tell(len(seen), seen[name][0])
        return seen[name]

    finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    for trial in finished:
        looked(trial.user_attrs["setting"])
    done = len(finished)
    while len(seen) < plan.tries and done < STALE * plan.tries:
        study.sampler = _sampler(optuna, plan, done, answers)
        trial = study.ask()
        setting = plan.space.ask(trial)
        trial.set_user_attr("setting", setting)
        candidate, value = looked(setting)
        if candidate.status == TRIED:
            study.tell(trial, value)
        else:
            trial.set_user_attr("reason", candidate.reason)
            trial.report(value, len(candidate.scores))
            study.tell(trial, state=states.PRUNED)
        done += 1
    return [candidate for candidate, _ in seen.values()]


def _study(optuna: Any, plan: Plan) -> Any:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path, states = (plan.out / STORAGE).resolve(), optuna.trial.TrialState
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        study = optuna.create_study(storage=storage, study_name="dlm tune", load_if_exists=True)
        finished = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    except Exception as error:  # SQLAlchemy's own, at a file that is none of its
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(f"{path} cannot be used as the search's storage ({said}): give another out=") from error
    if not all(plan.space.holds(trial.user_attrs.get("setting")) for trial in finished):
        raise SettingsError(f"{path} is damaged (a setting in it is none of this search): take the file away")
    return study


def _sampler(optuna: Any, plan: Plan, done: int, answers: Answers) -> Any:
    """Proposes the setting after ``done`` finished tries: every sampler as published first, then by what was seen."""
    digest, names = hashlib.sha256(repr(("dlm tune", plan.seed, done)).encode()).digest(), plan.space.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        tpe = optuna.samplers.TPESampler(n_startup_trials=len(names) + 4, seed=int.from_bytes(digest[:4], "little"))
        if done >= len(names):
            return tpe
        return optuna.samplers.PartialFixedSampler(plan.space.first(done, answers.published(names[done])), tpe)


def _looked_at(setting: Setting, plan: Plan, answers: Answers, reference: Candidate) -> tuple[Candidate, float]:
    """A setting on the choosing questions, and its value to the search: its share of the reference's cost, and what it
    lacks of good prospects. It is given up where it cannot have good ones any more, or is dearer than the reference."""
    candidate, total = Candidate(label_of(setting), overrides_of(setting)), plan.choose
    level, certify = plan.level, answers.most - plan.choose
    for last in sorted({math.ceil(share * total) for share in LOOKS}):
        try:
            candidate.ask(answers, len(candidate.scores), last)
        except SettingsError as error:  # StorageError and what no setting is at fault for go on up
            candidate.status = PRUNED if isinstance(error, Unanswered) else REFUSED
            candidate.reason = str(error).splitlines()[0]
            return candidate, WORST
        candidate.losses = reference.scores[:last] - candidate.scores
        candidate.prospect = prospect(candidate.losses, plan.epsilon, level, certify)
        # What it can still come to: nothing is lost of the rest.
        best = prospect(np.pad(candidate.losses, (0, total - last)), plan.epsilon, level, certify)
        ratio = candidate.cost / float(reference.costs[:last].mean())
        if last < total and (best < HOPELESS or ratio >= 1):
            lost = f"loses {candidate.losses.mean():.1%} of the first {last} questions"
            candidate.status = PRUNED
            candidate.reason = lost if best < HOPELESS else "costs no less than the reference"
            break
    return candidate, ratio + min(1.0, max(0.0, 1 - best))
