"""What a tuning is asked for: read, checked, and held against what its folder holds already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from dlm.choices import listed, names
from dlm.configuration import check_choice, check_counts, compose_config, plain_of
from dlm.errors import SettingsError
from dlm.evaluation.identity import Questions
from dlm.evaluation.point import canonical, differing
from dlm.evaluation.runner import Ready
from dlm.evaluation.shards import check_alone
from dlm.evaluation.store import read_json
from dlm.evaluation.tuning.answers import COSTS, Asked
from dlm.evaluation.tuning.certificate import needed, planned
from dlm.evaluation.tuning.space import Space, settings_of
from dlm.files import write_json

RECORD = "tuning.json"
TEXTS = ("task", "reference", "out")
FIGURES = ("epsilon", "delta", "cost", "tries", "shortlist", "choose", "certify", "seed")
OWN = {*TEXTS, *FIGURES, "pictures", "debug"} - {"seed"}  # what `dlm eval` does not know
SEVERAL = {"sampler": "samplers", "blocks": "blocks", "cache": "caches", "drafting": "drafting"}
MOST = 1_000_000  # questions in all
GENEROUS = 2.5  # times as many questions as it takes where none is lost


@dataclass(frozen=True)
class Plan:
    """The settings of ``conf/tune.yaml``, checked."""

    tasks: tuple[tuple[str, ...], ...]  # the overrides of each, ``task=NAME`` first
    reference: tuple[str, ...]  # the overrides of what is compared with
    base: tuple[str, ...]  # what the reference and all candidates share
    space: Space
    epsilon: float
    delta: float
    cost: str
    tries: int
    shortlist: int
    choose: int
    certify: int | None
    seed: int
    out: Path
    words: tuple[str, ...]  # the command line

    @classmethod
    def of(cls, overrides: Sequence[str]) -> Plan:
        """Read a command line. Raises SettingsError: what cannot be read, is out of range, or is not installed."""
        if find_spec("optuna") is None:
            raise SettingsError("dlm tune searches with Optuna: pip install 'dlm[tune]'")
        check_alone("dlm tune works in one process: start it without accelerate launch or torchrun")
        texts = {key: text for key, _, text in (o.partition("=") for o in overrides) if key in TEXTS}
        rest = [o for o in overrides if o.partition("=")[0] not in TEXTS]
        options = [o for o in rest if o.lstrip("+").startswith("task.")]
        rest = [o for o in rest if o not in options]
        if any(o.startswith("task.limit=") for o in options):
            raise SettingsError("tune asks choose= and certify= questions: leave task.limit out")
        if any(o.partition("=")[0].lstrip("+~") == "experiment" for o in rest):
            raise SettingsError("experiment= is for other commands: give tune the settings of the file themselves")
        for group, several in SEVERAL.items():
            if any(o.partition("=")[0].lstrip("+~").partition(".")[0] == group for o in rest):
                raise SettingsError(
                    f"tune looks at several: space.{several}=[...] instead of {group}=; what all are compared with is"
                    " reference=[...]"
                )
        ranges = [o.partition("=")[0] for o in rest if o.startswith("space.ranges.")]  # replaced, not merged with
        config = plain_of(compose_config("tune", [*(f"{key}=null" for key in ranges), *rest]))
        check_counts(config, "tries", "shortlist", "choose")
        check_counts(config, "seed", least=None)
        if config["certify"] is not None:
            check_counts(config, "certify")
        for key in ("epsilon", "delta"):
            if type(config[key]) not in (int, float) or not 0 < config[key] < 1:
                raise SettingsError(f"{key} must be a number between 0 and 1, got {config[key]!r}")
        check_choice("cost", config["cost"], tuple(COSTS))
        tasks = listed(texts.get("task", str(config["task"])))
        if not tasks:
            raise SettingsError("task names none: give at least one, for example task=waiting_line/copy")
        reference = names(texts["reference"]) if "reference" in texts else config["reference"]
        known = [key.lstrip("+").partition(".")[0] in SEVERAL and bool(equals) for key, equals, _ in
                 (entry.partition("=") for entry in reference)]  # fmt: skip
        if not all(known) or not known:
            raise SettingsError(
                "reference is a list of key=value for sampler, blocks, cache and drafting, as"
                f" reference=[sampler=topk,cache=none]: {reference[known.index(False)] if known else '[]'!r}"
            )
        base = [o for o in rest if o.lstrip("+~").partition("=")[0] not in OWN and not o.startswith("space.")]
        plan = cls(
            tasks=tuple((f"task={task}", *options) for task in tasks),
            reference=tuple(reference),
            base=(*base, "retries=0"),  # a question that failed once is not asked by a run that goes on
            space=Space.of(config["space"]),
            out=Path(texts.get("out", str(config["out"]))).expanduser(),
            words=tuple(overrides),
            **{key: config[key] for key in FIGURES},
        )
        settings_of(plan.shared)
        plan.amounts()
        return plan

    @property
    def shared(self) -> list[str]:
        """What of ``base`` stands in ``tuned.yaml``."""
        return [
            o for o in self.base if o.lstrip("+~").partition("=")[0].partition(".")[0] in ("model", "max_new_tokens")
        ]

    @property
    def level(self) -> float:
        """Of the test of each candidate on the shortlist."""
        return self.delta / self.shortlist

    def amounts(self) -> tuple[int, int]:
        """Certifying questions that it takes at least, and that are drawn. Raises SettingsError: too many."""
        try:
            least = needed(self.epsilon, self.level, min(self.choose, MOST))
        except ArithmeticError:  # an epsilon or a level that is next to nothing
            least = MOST
        most = self.certify if self.certify is not None else ceil(GENEROUS * least)
        if self.choose + max(least, most) > MOST:
            raise SettingsError(
                f"choose={self.choose} and the certifying questions (certify={self.certify}; epsilon={self.epsilon:g}"
                f" and delta={self.delta:g} take at least {least}) are more than {MOST} together: make choose or"
                " certify smaller, or epsilon or delta larger"
            )
        return least, most

    def draw(self, questions: Sequence[Questions]) -> Asked:
        """The questions. Raises SettingsError: there are too few for a certificate."""
        least, most = self.amounts()
        asked = Asked.of(questions, self.choose + most, self.seed)
        left = len(asked.places) - self.choose
        if left >= least:
            return asked
        one = min(1e12, planned(self.epsilon, self.level, self.epsilon / 4, self.epsilon / 4))
        there = f"certify={most}" if left == most else f"there are {len(asked.places)} in all"
        raise SettingsError(
            f"too few questions: epsilon={self.epsilon:g} and delta={self.delta:g}, shared by a shortlist of"
            f" {self.shortlist}, take at least {least} to certify where no answer is lost (about {ceil(one)} where"
            f" {self.epsilon / 4:.1%} are lost and as many won) after choose={self.choose} to choose by, so"
            f" {self.choose + least}; {there}: give more, or a larger epsilon or delta, or a shorter shortlist"
        )

    def claim(self, points: Sequence[Ready]) -> None:
        """Write down what the folder is for. Raises SettingsError: it is for something else; the keys that differ are
        named."""
        parts = {key: points[0].point.identity[key] for key in ("model", "sampler", "blocks", "cache", "drafting")}
        what = ("task", "identity", "form", "max_new_tokens")
        tasks = {point.point.task: {key: point.point.identity[key] for key in what} for point in points}
        spans = {name: {key: str(span) for key, span in own.items()} for name, own in self.space.ranges.items()}
        space = {key: list(getattr(self.space, key)) for key in ("samplers", "blocks", "caches", "drafting")}
        mine = {"model": parts.pop("model"), "reference": parts, "tasks": tasks, "space": {**space, "ranges": spans}}
        mine |= {key: getattr(self, key) for key in FIGURES}
        there: dict[str, Any] = read_json(self.out / RECORD)
        if there and (keys := differing(json.loads(canonical(mine)), there)):
            raise SettingsError(
                f"{self.out} holds another tuning; it differs in {', '.join(keys[:8])}: give another out=, or take the"
                " folder away"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / RECORD, mine)
