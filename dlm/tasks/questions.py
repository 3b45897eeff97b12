"""Questions of the user's own: a file of prompts and right answers, and how an answer is compared."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.numbers import first_turn, stated, value
from dlm.tasks.programs import is_python
from dlm.tasks.reading import kept
from dlm.tasks.records import Record, fingerprint, read_records
from dlm.tasks.sandbox import PARALLEL, Limits, confined_level, level
from dlm.tasks.tested import tested
from dlm.words import not_among

SCORERS = ("exact", "contains", "regex", "number", "python")


@dataclass(frozen=True)
class OwnQuestions:
    """The records of a file: the task ``jsonl``, and with fewer settings ``questions``, its older name.

    Attributes:
        path: ``FILE.jsonl``, or what else :func:`read_records` reads.
        prompt_key, answer_key: the fields of a record that hold question and right answer.
        scorer: ``exact``: the output is the answer; ``contains``: it is somewhere in it (how many blanks there are,
            and whether there are any at the ends, does not count); ``regex``: what the last match of ``pattern`` in
            the output holds, in its first group where it has one, is the answer; ``number``: the number that the output
            ends on is the answer's (:func:`dlm.tasks.numbers.stated`); ``python``: the answer is test code, as ``assert
            f(2) == 4``, that the output's program passes in the sandbox (:func:`dlm.tasks.tested.tested`).
        pattern: for ``regex`` alone. It is searched without a time limit in what the model says: one that backtracks,
            as ``(a+)+b``, can take for ever.
        split: which part of a dataset.
        match: what ``questions`` calls the scorer.
    """

    path: str | None = None
    prompt_key: str = "prompt"
    answer_key: str = "answer"
    scorer: str = "exact"
    pattern: str | None = None
    split: str = "test"
    match: str | None = None
    name: str = "jsonl"
    canvas: int = field(default=64, init=False)
    parallel: int = field(default=1, init=False, repr=False)
    _records: list[Record] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key, known = ("task.scorer", SCORERS) if self.match is None else ("task.match", SCORERS[:2])
        object.__setattr__(self, "scorer", self.match or self.scorer)
        if self.scorer not in known:
            raise SettingsError(not_among(key, self.scorer, known))
        for name in ("prompt_key", "answer_key", "pattern"):
            if not isinstance(value := getattr(self, name), str) and not (name == "pattern" and value is None):
                raise SettingsError(f"task.{name} must be a text, got {value!r}")
        if not self.path:
            raise SettingsError(f"task={self.name} reads a file of yours: give task.path=FILE.jsonl")
        self._check_pattern()
        object.__setattr__(self, "_records", read_records(self.path, (self.prompt_key, self.answer_key), self.split))
        self._check_answers(key)
        if self.scorer == "python":
            confined_level("task.scorer=python")
            object.__setattr__(self, "canvas", 512)
            object.__setattr__(self, "parallel", PARALLEL)

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._records)

    @property
    def identity(self) -> dict[str, Any]:
        """A hash of the file's records, and how strongly programs are confined where they are run."""
        return {"data": fingerprint(self._records), **({"sandbox": level()} if self.scorer == "python" else {})}

    def instance(self, index: int) -> Instance:
        """The ``index``-th record."""
        prompt, answer = (self._records[index][key] for key in (self.prompt_key, self.answer_key))
        meta = {"answer": answer}
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, answer, meta)

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Whether the answer is there. Errors: ``wrong``, ``no_match`` of ``regex``, ``no_number``, and for ``python``
        those of :func:`dlm.tasks.tested.first_that_runs`."""
        right = instance.meta["answer"]
        if self.scorer == "python":
            return tested(output, right, Limits())
        if self.scorer == "number":
            said = stated(first_turn(output))
            return _verdict(said, said is not None and value(said) == value(stated(right) or ""), "no_number")
        if self.scorer == "regex":
            found = list(re.finditer(self.pattern or "", output))
            said = (found[-1][1] if found[-1].re.groups else found[-1][0]) if found else None
            return _verdict(said, said is not None and _plain(said) == _plain(right), "no_match")
        said = _plain(output)
        return _verdict(said, said == _plain(right) if self.scorer == "exact" else _plain(right) in said, "wrong")

    def _check_pattern(self) -> None:
        if (self.pattern is not None) != (self.scorer == "regex"):
            raise SettingsError("task.scorer=regex needs task.pattern=REGEX, as 'answer: (.*)', and no other takes one")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise SettingsError(f"task.pattern={self.pattern} is no regular expression: {error}") from error

    def _check_answers(self, key: str) -> None:
        blanks, numbers = "nothing but blanks", lambda answer: value(stated(answer) or "") is not None
        wanted: dict[str, tuple[Callable[[str], Any], str, str]] = {
            "contains": (_plain, blanks, f"every output contains that: give an answer, or {key}=exact"),
            "regex": (_plain, blanks, "give an answer"),
            "number": (numbers, "no number", "give one, or another task.scorer"),
            "python": (is_python, "no Python", "give test code, as 'assert f(2) == 4'"),
        }
        if self.scorer not in wanted:
            return
        good, what, mend = wanted[self.scorer]
        bad = next((n for n, record in enumerate(self._records, start=1) if not good(record[self.answer_key])), None)
        if bad is not None:
            raise SettingsError(f"{self.path}, record {bad} has {what} under {self.answer_key!r}: {mend}")


def _verdict(said: str | None, good: bool, absent: str) -> Verdict:
    error = None if good else absent if said is None else "wrong"
    return Verdict(float(good), None, error, None if said is None else kept([said])[0])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
