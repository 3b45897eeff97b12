"""Questions of the user's own: a file of prompts and right answers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.reading import kept
from dlm.tasks.records import Record, fingerprint, read_records

RULES = ("exact", "contains")


@dataclass(frozen=True)
class OwnQuestions:
    """The records of a file.

    Attributes:
        path: ``FILE.jsonl``, or what else :func:`read_records` reads; records have ``prompt`` and ``answer``.
        match: ``exact``: the output is the answer, ``contains``: it is somewhere in it; how many blanks there are, and
            whether there are any at the ends, does not count.
        split: which part of a dataset.
    """

    path: str | None = None
    match: str = "exact"
    split: str = "test"
    name: str = field(default="questions", init=False)
    canvas: int = field(default=64, init=False)
    _records: list[Record] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.match not in RULES:
            raise SettingsError(f"task.match must be one of {', '.join(RULES)}, got {self.match!r}")
        if not self.path:
            raise SettingsError("task=questions reads a file of yours: give task.path=FILE.jsonl")
        object.__setattr__(self, "_records", read_records(self.path, ("prompt", "answer"), self.split))
        blank = [number for number, record in enumerate(self._records, start=1) if not _plain(record["answer"])]
        if self.match == "contains" and blank:
            raise SettingsError(
                f"{self.path}, record {blank[0]} has nothing but blanks under 'answer', which every output contains:"
                " give an answer, or task.match=exact"
            )

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._records)

    @property
    def identity(self) -> dict[str, Any]:
        """A hash of the file's records."""
        return {"data": fingerprint(self._records)}

    def instance(self, index: int) -> Instance:
        """The ``index``-th record."""
        record = self._records[index]
        key = instance_id(self.name, record["prompt"], {"answer": record["answer"]})
        return Instance(key, self.name, record["prompt"], record["answer"], {"answer": record["answer"]})

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Whether the answer is there. Errors: ``wrong``."""
        said, right = _plain(output), _plain(instance.meta["answer"])
        good = said == right if self.match == "exact" else right in said
        return Verdict(float(good), None, None if good else "wrong", kept([said])[0])


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
