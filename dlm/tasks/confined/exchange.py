"""The two processes of a run: one holds the program, the other its tests. What crosses are plain values.

A line each: the program says ``ready`` when its last line has run; the judge asks ``[args, kwargs]``; the program
answers ``["done", result, args]`` or ``["raised", name, args]``.
"""

from __future__ import annotations

import builtins
import os
import sys
import types
from collections.abc import Callable
from typing import Any, TextIO

from .values import dumped, loaded

LEFT = 78  # exit status of a judge whose program has ended


class ProgramLeft(BaseException):
    """The program's process ended, or closed its pipe, before the tests were over."""


class Garbled(BaseException):
    """The program wrote into the pipe to its judge by itself."""


def serve(source: str, entry: str | None, reader: int, writer: int) -> None:
    """Run a program, then answer the judge's calls of its function ``entry`` until there are no more. What the program
    itself raises comes out."""
    write = os.write  # the program may replace functions of modules
    module = types.ModuleType("program")
    sys.modules["program"] = module
    exec(compile(source, "program.py", "exec"), module.__dict__)
    _say(write, writer, dumped("ready"))
    if entry is None:
        return
    with os.fdopen(reader, encoding="ascii") as asked:
        function = module.__dict__[entry]
        for line in asked:
            args, kwargs = loaded(line)
            try:
                result = function(*args, **kwargs)
                # What is changed in place counts of a function that gives nothing back.
                answer = dumped(["done", result, args if result is None else None])
            except BaseException as error:
                answer = dumped(["raised", type(error).__name__[:100], list(error.args)])
            _say(write, writer, answer)


def judge(tests: str, prompt: str, entry: str | None, reader: int, writer: int) -> None:
    """Run tests, ``check(candidate)``, against the program in the other process. What the tests raise comes out; so
    do ProgramLeft and Garbled."""
    with os.fdopen(reader, encoding="ascii", errors="replace") as answers:
        if _heard(answers) != "ready":
            raise Garbled
        if entry is None:
            return
        module = types.ModuleType("tests")
        sys.modules["tests"] = module
        space = module.__dict__
        exec(compile(prompt, "prompt.py", "exec"), space)  # its imports and helpers; the tests use them
        space[entry] = candidate = _candidate(answers, writer)
        exec(compile(tests, "tests.py", "exec"), space)
        space["check"](candidate)


def _candidate(answers: TextIO, writer: int) -> Callable[..., Any]:
    """What the tests call: it asks the program."""

    def candidate(*args: Any, **kwargs: Any) -> Any:
        _say(os.write, writer, dumped([list(args), kwargs]))
        answer = _heard(answers)
        if not isinstance(answer, list) or len(answer) != 3:
            raise Garbled
        kind, result, changed = answer
        if kind == "raised":
            raise _error(str(result), changed)
        for mine, theirs in zip(args, changed if isinstance(changed, list) else (), strict=False):
            if isinstance(mine, list | bytearray) and type(theirs) is type(mine):
                mine[:] = theirs
            elif isinstance(mine, dict | set) and type(theirs) is type(mine):
                mine.clear()
                mine.update(theirs)
        return result

    return candidate


def _error(name: str, told: list[Any]) -> BaseException:
    """An exception of Python's own of that name, else one of a class that is only called so."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        try:
            return kind(*told)
        except TypeError:  # a few want certain arguments
            pass
    return type(name, (Exception,), {"__module__": "builtins"})(*told)


def _say(write: Callable[[int, bytes], int], number: int, line: str) -> None:
    rest = line.encode("ascii") + b"\n"
    try:
        while rest:
            rest = rest[write(number, rest) :]
    except BrokenPipeError:
        raise ProgramLeft from None


def _heard(answers: TextIO) -> Any:
    """What the program says. Raises ProgramLeft: nothing; Garbled: nonsense."""
    line = answers.readline()
    if not line:
        raise ProgramLeft
    try:
        return loaded(line)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise Garbled from None
