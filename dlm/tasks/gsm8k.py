"""GSM8K (Cobbe et al., arXiv 2110.14168): word problems of a few steps, from a file or the hub.

The answer ends with ``#### N``. Numbers are compared as numbers: 29.00 is 29 (:mod:`dlm.tasks.numbers`). In what this
differs from the task ``gsm8k`` of lm-evaluation-harness stands in docs/evaluation.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.numbers import first_turn, plain, stated, value
from dlm.tasks.reading import kept
from dlm.tasks.records import Record, fingerprint, read_records

INSTRUCTION = "Work it out step by step. End with a line that holds #### and the number alone."
READING = 2  # of the rules by which numbers are read: other rules, other scores
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
# Worked examples of our own, in the form of the data set's answers.
_OWN = Path(__file__).with_name("gsm8k.jsonl").read_text(encoding="utf-8").splitlines()
EXAMPLES = tuple((shot["question"], shot["answer"]) for shot in map(json.loads, _OWN))


@dataclass(frozen=True)
class Gsm8k:
    """The problems of a split.

    Attributes:
        path: ``FILE.jsonl``, ``FILE.parquet``, a folder written by ``Dataset.save_to_disk``, or
            ``hf:openai/gsm8k:main``; records have ``question`` and ``answer``, which ends with ``#### N``.
        split: which part of a dataset.
        shots: worked examples before the question: 5 in the published setting for base models, 0 for chat models.
        shots_path: where they come from, the first of its split ``train``, read like ``path``; None: examples of our
            own, six at most.
    """

    path: str = "hf:openai/gsm8k:main"
    split: str = "test"
    shots: int = 0
    shots_path: str | None = None
    name: str = field(default="gsm8k", init=False)
    canvas: int = field(default=256, init=False)
    _records: list[Record] = field(init=False, repr=False, compare=False)
    _shots: tuple[tuple[str, str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shots", self._examples())
        object.__setattr__(self, "_records", self._read(self.path, self.split, "task.path"))

    @property
    def size(self) -> int:
        """How many problems there are."""
        return len(self._records)

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of the problems and of the worked examples, and the version of the rules for reading numbers."""
        return {"data": fingerprint(self._records), "shots": fingerprint(self._shots), "reading": READING}

    def instance(self, index: int) -> Instance:
        """The ``index``-th problem, worded for a chat."""
        record = self._records[index]
        meta = {"question": record["question"], "answer": _plain(_strict(record["answer"]) or "")}
        prompt = _chat(record["question"])
        shots = tuple((_chat(question), answer) for question, answer in self._shots)
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, record["answer"], meta, shots)

    def text(self, instance: Instance) -> str:
        """The prompt for a base model: ``Question: … Answer:``, worked examples first."""
        shots = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in self._shots)
        return f"{shots}Question: {instance.meta['question']}\nAnswer:"

    def judge(self, instance: Instance, output: str) -> Verdict:
        """The number behind ``####``, else in a box, else behind "answer is", else the last (:func:`stated`); strictly,
        the one right behind the last ``####`` and a blank. Errors: ``no_number``, ``wrong``.

        What a model writes behind its answer for the next speaker is left out, in whatever form of a chat.
        """
        answer = first_turn(output)
        loose, strict = stated(answer), _strict(answer)
        right = value(instance.meta["answer"])
        if loose is None:
            return Verdict(0.0, 0.0, "no_number")
        score = float(value(loose) == right)
        return Verdict(
            score,
            float(strict is not None and value(strict) == right),
            None if score else "wrong",
            {"loose": kept([loose])[0], "strict": None if strict is None else kept([_plain(strict)])[0]},
        )

    def _examples(self) -> tuple[tuple[str, str], ...]:
        if type(self.shots) is not int or self.shots < 0:
            raise SettingsError(f"task.shots must be a whole number of at least 0, got {self.shots!r}")
        if self.shots_path is None or not self.shots:
            found = list(EXAMPLES)
        else:
            records = self._read(self.shots_path, "train", "task.shots_path")
            found = [(record["question"], record["answer"]) for record in records]
        if len(found) < self.shots:
            raise SettingsError(f"task.shots={self.shots}, but there are {len(found)} examples: set task.shots_path")
        return tuple(found[: self.shots])

    @staticmethod
    def _read(path: str, split: str, key: str) -> list[Record]:
        if path == "hf:openai/gsm8k":
            path += ":main"  # the hub has it in two forms, and asks for one
        records = read_records(path, ("question", "answer"), split, key)
        wrong = next((i for i, record in enumerate(records) if value(_strict(record["answer"]) or "") is None), None)
        if wrong is not None:
            raise SettingsError(f"{path}, record {wrong + 1}: the answer must end with '#### N'")
        return records


def _chat(question: str) -> str:
    return f"{question}\n\n{INSTRUCTION}"


def _strict(text: str) -> str | None:
    found = [number for number in _STRICT.findall(plain(text)) if any("0" <= c <= "9" for c in number)]
    return found[-1] if found else None


def _plain(number: str) -> str:
    """Without commas, dollar signs and a final dot."""
    return number.replace(",", "").replace("$", "").removesuffix(".")
