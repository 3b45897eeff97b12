"""Every task under its name, made when it is asked for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.arithmetic import Addition, WordProblem
from dlm.tasks.base import Family, Generated, Task
from dlm.tasks.puzzles import LatinSquare, Sudoku
from dlm.tasks.story import Story
from dlm.tasks.waiting_line import OPERATIONS, WaitingLine
from dlm.words import meant, unknown_name

_FAMILIES: list[Family] = [
    *(WaitingLine(operation) for operation in OPERATIONS),
    Addition(),
    Sudoku(),
    LatinSquare(),
    WordProblem(),
    Story(),
]
_SHORT = {family.name: Generated(family) for family in _FAMILIES}
UPSTREAM = "upstream/"  # followed by <group>/<task> of a checkout that the user has


@dataclass(frozen=True)
class Entry:
    """A task that is made on demand.

    Attributes:
        maker: ``module:callable``; imported when the task is opened.
        metric: what its score measures, in a few words.
        fixed: arguments that the name decides.
        named: whether the callable takes the task's name as its first argument.
        far: whether opening it with its defaults reaches for the network.
    """

    maker: str
    metric: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    named: bool = False
    far: bool = False

    def load(self) -> Callable[..., Task]:
        """The class or function that makes the task."""
        module, _, attribute = self.maker.partition(":")
        return getattr(import_module(module), attribute)

    def make(self, name: str, options: dict[str, Any]) -> Task:
        """The task with these options.

        Raises:
            SettingsError: an option it does not have (the known ones are listed), or a value it refuses.
        """
        maker = self.load()
        known = options_of(maker, self.fixed)
        if known is not None:
            _check_options(name, options, known)
        return maker(*([name] if self.named else []), **self.fixed, **options)


def options_of(maker: Any, fixed: Mapping[str, Any]) -> list[str] | None:
    """What a task's user may set: the fields of its class, names, sizes and canvases left out, or the keywords of its
    function; None: the function takes any and checks by itself."""
    if dataclasses.is_dataclass(maker):
        own = {"name", "canvas", "size", *fixed}
        return [f.name for f in dataclasses.fields(maker) if f.init and f.name not in own and f.name[0] != "_"]
    parameters = inspect.signature(maker).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def _lists(group: str, **fixed: Any) -> dict[str, Entry]:
    maker = "dlm.tasks.parallelbench:PeopleQueue"
    rules = {"shuffle": "a reordering", "insert_random": "any insertion", "remove_random": "any removal",
             "replace_random": "any replacement"}  # fmt: skip
    return {
        f"{group}/{operation}": Entry(
            maker, rules.get(operation, "equal lists"), {"operation": operation, "group": group, **fixed}
        )
        for operation in OPERATIONS
    }


_TEXTS = ("paraphrase", "summarise", "words_to_sentence_easy", "words_to_sentence_medium", "words_to_sentence_hard")
_QUESTIONS = {"name": "questions", "prompt_key": "prompt", "answer_key": "answer", "scorer": "exact", "pattern": None}
_ENTRIES: dict[str, Entry] = {
    **_lists("parallelbench/waiting_line", lengths=(3, 4, 5, 6)),
    **_lists("parallelbench/waiting_line_n15", lengths=(15,), canvas=128),
    "parallelbench/puzzle/latin_square": Entry("dlm.tasks.parallelbench:LatinSquares", "any Latin square"),
    "parallelbench/puzzle/sudoku": Entry("dlm.tasks.parallelbench:Sudokus", "a solution"),
    **{f"parallelbench/text/{t}": Entry("dlm.tasks.text:open_text", "grammar", named=True) for t in _TEXTS},
    "jsonl": Entry("dlm.tasks.questions:OwnQuestions", "the file's answer", {"match": None}, far=True),
    "questions": Entry("dlm.tasks.questions:OwnQuestions", "the file's answer", _QUESTIONS, far=True),
    "gsm8k": Entry("dlm.tasks.gsm8k:Gsm8k", "the stated number", far=True),
    "minerva_math": Entry("dlm.tasks.math:MinervaMath", "the stated answer", far=True),
    "math500": Entry("dlm.tasks.math:Math500", "the stated answer", far=True),
    "humaneval": Entry("dlm.tasks.humaneval:HumanEval", "programs that pass"),
    "mbpp": Entry("dlm.tasks.mbpp:Mbpp", "programs that pass", far=True),
}
_SHORT_METRICS = {"arithmetic/addition": "the sum", "math/word_problem": "the stated number",
                  "text/story": "consistency"}  # fmt: skip


def names() -> list[str]:
    """The short forms: the tasks that the packaged model was trained on."""
    return list(_SHORT)


def every() -> list[str]:
    """All names that :func:`open_task` knows; beside them it takes ``upstream/<group>/<task>``."""
    return [*_SHORT, *_ENTRIES]


def metric(task: Task | str) -> str:
    """What a task's score measures, in a few words: what the object says of itself (``metric``), of ours what is known
    by the name, else ``its own scorer``."""
    if not isinstance(task, str):
        ours = type(task).__module__.partition(".")[0] == "dlm"
        return str(getattr(task, "metric", None) or (metric(task.name) if ours else "its own scorer"))
    name = task
    if name in _SHORT_METRICS:
        return _SHORT_METRICS[name]
    entry = _ENTRIES.get(name) or _ENTRIES.get(f"parallelbench/{name}")
    return entry.metric if entry else "its own scorer"


@dataclass(frozen=True)
class Outline:
    """A line about a task.

    Attributes:
        name, group: its name, and the name without its last part.
        metric: what its score measures, in a few words.
        size, canvas: as in :class:`dlm.tasks.base.Task`; also None where that cannot be known here.
        needs: why it cannot be opened here as it is; None: it can.
    """

    name: str
    group: str
    metric: str
    size: int | None
    canvas: int | None
    needs: str | None


def outline(name: str) -> Outline:
    """A line about a task, read from no network."""
    about = (name, name.rpartition("/")[0] or name, metric(name))
    entry = _ENTRIES.get(name)
    if entry is not None and entry.far:
        return Outline(*about, None, getattr(entry.load(), "canvas", None), "reads its questions from task.path")
    try:
        task = open_task(name)
        return Outline(*about, task.size, task.canvas, None)
    except SettingsError as error:
        return Outline(*about, None, None, str(error))


def get(name: str) -> Generated:
    """The short form of that name.

    Raises:
        SettingsError: there is none; the message lists the known ones.
    """
    if name not in _SHORT:
        raise SettingsError(unknown_name("task", name, _SHORT))
    return _SHORT[name]


def open_task(name: str, **options: Any) -> Task:
    """The task of that name, with options of its own.

    Names: :func:`every`, and ``upstream/<group>/<task>`` with ``dir=``, a checkout of the published benchmark.

    Raises:
        SettingsError: an unknown name or option (the known ones are listed), or a value that the task refuses.
    """
    if name in _SHORT:
        _check_options(name, options, [])
        return _SHORT[name]
    if name in _ENTRIES:
        return _ENTRIES[name].make(name, options)
    if name.startswith(UPSTREAM):
        return Entry("dlm.tasks.upstream:open_upstream", "as published", named=True).make(name, options)
    raise SettingsError(unknown_name("task", name, [*every(), f"{UPSTREAM}GROUP/TASK"]))


def _check_options(name: str, options: Mapping[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            listed = f"it has {', '.join(known)}" if known else "it has none"
            raise SettingsError(f"task {name} has no option {option!r}{meant(option, known)}; {listed}")
