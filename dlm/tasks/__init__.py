"""Tasks: counter-based generators of questions, and their scorers."""

from dlm.errors import SettingsError
from dlm.tasks.arithmetic import Addition
from dlm.tasks.base import Family, Generated, Instance, Stream, Task, Template, Verdict, split_of
from dlm.tasks.puzzles import LatinSquare, Sudoku
from dlm.tasks.story import Story
from dlm.tasks.waiting_line import OPERATIONS, WaitingLine
from dlm.tasks.word_problem import WordProblem

_FAMILIES: list[Family] = [
    *(WaitingLine(operation) for operation in OPERATIONS),
    Addition(),
    Sudoku(),
    LatinSquare(),
    WordProblem(),
    Story(),
]
_TASKS = {family.name: Generated(family) for family in _FAMILIES}


def names() -> list[str]:
    """Every task's name."""
    return list(_TASKS)


def get(name: str) -> Generated:
    """The task of that name.

    Raises:
        SettingsError: there is none; the message lists the known ones.
    """
    if name not in _TASKS:
        raise SettingsError(f"unknown task {name!r}; known are {', '.join(_TASKS)}")
    return _TASKS[name]


__all__ = ["Generated", "Instance", "Stream", "Task", "Template", "Verdict", "get", "names", "split_of"]
