"""Programs that answers stand for, run in the sandbox against tests: what came of it, as a verdict."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable

from dlm.tasks.base import Verdict
from dlm.tasks.programs import defined, readings
from dlm.tasks.sandbox import Check, Limits, Outcome, run_program

Prepared = tuple[str, Check | None]  # a source, and what its function has to do


def first_that_runs(programs: Iterable[str], prepare: Callable[[str], Prepared], limits: Limits) -> Verdict:
    """1 when the first of the programs that is Python passes.

    Errors: ``no_code``, ``syntax``, ``wrong`` (an assertion of the tests), ``exception``, ``unfinished`` (it left
    before the tests were over), and ``timeout``, ``memory``, ``killed``, ``refused`` of
    :class:`dlm.tasks.sandbox.Outcome`. ``parsed`` holds the code and the last line of the program's stderr.
    """
    outcome, code = Outcome("failed", "", ()), ""
    for code in programs:
        outcome = run_program(*prepare(code), limits=limits)
        if outcome.status == "passed":
            return Verdict(1.0, parsed={"code": code, "said": ""})
        if _error(outcome) != "syntax":
            break
    said = outcome.detail.splitlines()[-1][:200] if outcome.detail else ""
    return Verdict(0.0, error=_error(outcome), parsed={"code": code, "said": said})


def tested(answer: str, tests: str, limits: Limits) -> Verdict:
    """Whether an answer's program passes tests that call it by name, such as ``assert f(2) == 4``.

    Tests that use one function of the program and nothing else of it run in a process of their own, as HumanEval's
    do; others, which hand over its classes or call several functions, run behind the program, in its process.
    """
    if not answer.strip():
        return Verdict(0.0, error="no_code")
    entry, used = _called(tests), _used(tests)

    def prepare(code: str) -> Prepared:
        if used & defined(code) == {entry}:
            return code, Check(entry, f"{tests}\ndef check(candidate): pass")
        return f"{code}\n\n{tests}\n", None

    return first_that_runs(readings({"prompt": "", "entry_point": entry}, answer), prepare, limits)


def _called(tests: str) -> str:
    """The function that tests are about: the first that is called and not Python's own, else the first."""
    nodes = ast.walk(ast.parse(tests))
    calls = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    own = [name for name in calls if not hasattr(builtins, name) and name not in defined(tests)]
    return (own or calls or [""])[0]


def _used(tests: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}


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
