"""MATH (Hendrycks et al., arXiv 2103.03874): problems of competitions whose answer is an expression.

``minerva_math`` is the four-shot form of Minerva (arXiv 2206.14858): prompt and worked examples are those of
lm-evaluation-harness's task of that name (``minerva.jsonl``, problems of the training split). ``math500`` are the 500
problems of PRM800K's test split (arXiv 2305.20050), asked as a chat without examples in the words that LLaDA's
evaluation uses (OpenCompass).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.latex import LONGEST, boxed, normal, phrased, same
from dlm.tasks.numbers import first_turn, stated
from dlm.tasks.reading import kept
from dlm.tasks.records import Record, fingerprint, read_records

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
READING = 1  # of the rules by which answers are found and compared: other rules, other scores
HUB = "hf:EleutherAI/hendrycks_math"
SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
_LINES = Path(__file__).with_name("minerva.jsonl").read_text(encoding="utf-8").splitlines()
EXAMPLES = tuple((shot["problem"], shot["solution"]) for shot in map(json.loads, _LINES))


@dataclass(frozen=True)
class MinervaMath:
    """The problems of a file or of the hub.

    Attributes:
        path: ``FILE.jsonl``, ``FILE.parquet``, a folder of ``Dataset.save_to_disk`` or ``hf:OWNER/NAME:SUBJECT``, whose
            records have ``problem`` and ``solution`` with the answer in its last ``\\boxed{}``; the default's seven
            subjects are put together.
        split: which part of a dataset.
        shots: how many of the four worked examples come first.
    """

    path: str = HUB
    split: str = "test"
    shots: int = 4
    name: str = field(default="minerva_math", init=False)
    canvas: int = field(default=512, init=False)
    _records: list[Record] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.shots) is not int or not 0 <= self.shots <= len(EXAMPLES):
            raise SettingsError(f"task.shots must be a whole number from 0 to {len(EXAMPLES)}, got {self.shots!r}")
        paths = [f"{HUB}:{subject}" for subject in SUBJECTS] if self.path == HUB else [self.path]
        records = [r for path in paths for r in read_records(path, ("problem", "solution"), self.split)]
        wrong = next((i for i, record in enumerate(records, start=1) if not boxed(record["solution"])), None)
        if wrong is not None:
            raise SettingsError(f"{self.path}, record {wrong}: the solution must hold its answer in \\boxed{{}}")
        object.__setattr__(self, "_records", records)

    @property
    def size(self) -> int:
        """How many problems there are."""
        return len(self._records)

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of the problems and of the worked examples, and the version of the rules for reading answers."""
        shots = fingerprint(EXAMPLES[: self.shots])
        return {"data": fingerprint(self._records), "shots": shots, "reading": READING}

    def instance(self, index: int) -> Instance:
        """The ``index``-th problem; its worked examples are turns of the chat."""
        record = self._records[index]
        meta = {"problem": record["problem"], "answer": boxed(record["solution"])}
        prompt = self._asked(record["problem"])
        shots = tuple((self._asked(problem), solution) for problem, solution in EXAMPLES[: self.shots])
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, record["solution"], meta, shots)

    def text(self, instance: Instance) -> str:
        """The harness's prompt for a base model: ``Problem: … Solution:``, worked examples first."""
        shots = "".join(f"{_minerva(problem)} {solution}\n\n" for problem, solution in EXAMPLES[: self.shots])
        return shots + _minerva(instance.meta["problem"])

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Whether the answer equals the right one (:func:`dlm.tasks.latex.same`): that in the last box, else behind
        "final answer is", else the last number. Strictly: where the form asks for it (:meth:`_strict`), equal as a
        normalised text. Errors: ``no_answer``, ``wrong``.

        What a model writes behind its answer for the next speaker, or as the next problem, is left out.
        """
        said, right = first_turn(output), instance.meta["answer"]
        loose, strict = boxed(said) or phrased(said) or stated(said), self._strict(said)
        good = loose is not None and same(loose, right)
        error = None if good else "no_answer" if loose is None else "wrong"
        read = {"loose": loose and kept([loose])[0], "strict": strict and kept([strict])[0]}
        strictly = strict is not None and len(strict) <= LONGEST and normal(strict) == normal(right)
        return Verdict(float(good), float(strictly), error, read)

    def _asked(self, problem: str) -> str:
        return _minerva(problem)

    def _strict(self, said: str) -> str | None:
        """Minerva's sentence, as the harness's ``exact_match`` reads it."""
        return phrased(said)


@dataclass(frozen=True)
class Math500(MinervaMath):
    """MATH-500, zero-shot; strictly, the answer stands in a box."""

    path: str = "hf:HuggingFaceH4/MATH-500"
    shots: int = 0
    name: str = field(default="math500", init=False)

    def _asked(self, problem: str) -> str:
        return f"{problem}\n{INSTRUCTION}"

    def _strict(self, said: str) -> str | None:
        return boxed(said)


def _minerva(problem: str) -> str:
    return f"Problem:\n{problem}\n\nSolution:"
