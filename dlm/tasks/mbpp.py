"""MBPP (Austin et al., arXiv 2108.07732): functions to write, scored by running three assertions in a sandbox.

Prompt and worked examples are those of lm-evaluation-harness's task ``mbpp`` (``mbpp.jsonl``: the data set's problems
2, 3 and 4). As there, ``test_setup_code`` is not run: problem 367, which needs it, cannot be solved.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.programs import is_python
from dlm.tasks.records import Record, fingerprint, read_records
from dlm.tasks.sandbox import PARALLEL, Level, Limits, confined_level
from dlm.tasks.tested import tested
from dlm.words import not_among

READING = 1  # of the rules by which a program is found in an answer and run: other rules, other scores
ASSERTIONS = 3
# The published file holds all splits, told apart by their numbers.
SPLITS = {"prompt": range(1, 11), "test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}
_LINES = Path(__file__).with_name("mbpp.jsonl").read_text(encoding="utf-8").splitlines()
EXAMPLES = tuple(map(json.loads, _LINES))


@dataclass(frozen=True)
class Mbpp:
    """The problems of a file or of the hub. Judged like :class:`dlm.tasks.humaneval.HumanEval`; the score is pass@1.

    Attributes:
        path: ``FILE.jsonl``, ``FILE.parquet`` or ``hf:google-research-datasets/mbpp:full``, with the fields
            ``task_id``, ``text``, ``code`` and ``test_list``.
        split: ``prompt``, ``test``, ``validation`` or ``train``; of a file that holds problems of it and of others, by
            ``task_id``, those of it.
        shots: how many of the three worked examples come first.
        cpu_seconds, seconds, memory_mb: as in :class:`dlm.tasks.sandbox.Limits`.

    Raises:
        SettingsError: no such file, or a problem with too few assertions.
        SandboxError: programs cannot be confined on this machine.
    """

    path: str = "hf:google-research-datasets/mbpp:full"
    split: str = "test"
    shots: int = 3
    cpu_seconds: int = 5
    seconds: float = 15.0
    memory_mb: int = 1024
    name: str = field(default="mbpp", init=False)
    canvas: int = field(default=512, init=False)
    parallel: int = field(default=PARALLEL, init=False, repr=False, compare=False)
    _limits: Limits = field(init=False, repr=False, compare=False)
    _records: list[Record] = field(init=False, repr=False, compare=False)
    _level: Level = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if type(self.shots) is not int or not 0 <= self.shots <= len(EXAMPLES):
            raise SettingsError(f"task.shots must be a whole number from 0 to {len(EXAMPLES)}, got {self.shots!r}")
        if self.split not in SPLITS:
            raise SettingsError(not_among("task.split", self.split, SPLITS))
        limits = Limits(seconds=self.seconds, cpu_seconds=self.cpu_seconds, memory_mb=self.memory_mb)
        object.__setattr__(self, "_limits", limits)
        records = read_records(self.path, ("task_id", "text", "code"), self.split, lists=("test_list",))
        numbers = {str(number) for number in SPLITS[self.split]}
        own = [record for record in records if record["task_id"] in numbers] or records
        if short := [record["task_id"] for record in own if len(record["test_list"]) < ASSERTIONS]:
            raise SettingsError(f"{self.path}, task_id {short[0]}: test_list must hold {ASSERTIONS} assertions")
        if wrong := [record["task_id"] for record in own if not is_python("\n".join(record["test_list"]))]:
            raise SettingsError(f"{self.path}, task_id {wrong[0]}: its test_list is no Python")
        object.__setattr__(self, "_records", own)
        object.__setattr__(self, "_level", confined_level("mbpp"))

    @property
    def size(self) -> int:
        """How many problems there are."""
        return len(self._records)

    @property
    def identity(self) -> dict[str, Any]:
        """Hashes of the problems and of the worked examples, the limits, how strongly programs are confined, and the
        version of the rules by which they are read."""
        return {
            "data": fingerprint(self._records), "shots": fingerprint(EXAMPLES[: self.shots]),
            "limits": asdict(self._limits), "sandbox": self._level, "reading": READING,
        }  # fmt: skip

    def instance(self, index: int) -> Instance:
        """The ``index``-th problem; its worked examples are turns of the chat."""
        record = self._records[index]
        prompt = _asked(record)
        meta = {"task_id": record["task_id"], "tests": "\n".join(record["test_list"])}
        shots = tuple((_asked(shot), f"{shot['code']}\n[DONE]") for shot in EXAMPLES[: self.shots])
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, record["code"], meta, shots)

    def text(self, instance: Instance) -> str:
        """The harness's prompt: task and assertions up to ``[BEGIN]``, worked examples up to ``[DONE]`` first."""
        shots = "".join(f"{_asked(shot)}{shot['code']}\n[DONE]\n\n" for shot in EXAMPLES[: self.shots])
        return shots + instance.prompt

    def judge(self, instance: Instance, output: str) -> Verdict:
        """1 when the assertions hold; what comes behind ``[DONE]`` is left out. Errors as in
        :func:`dlm.tasks.tested.first_that_runs`."""
        return tested(output.partition("[DONE]")[0], instance.meta["tests"], self._limits)


def _asked(record: Record) -> str:
    tests = "\n".join(record["test_list"][:ASSERTIONS])
    return (
        f"You are an expert Python programmer, and here is your task: {record['text']} Your code should pass these"
        f" tests:\n\n{tests}\n[BEGIN]\n"
    )
