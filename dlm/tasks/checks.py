"""What a task of anybody's answers, checked where it enters: one sentence that names the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from numbers import Real
from typing import Any

from dlm.errors import DlmError, SettingsError
from dlm.tasks.base import Instance, Task, Verdict


def checked_task(task: Any) -> Task:
    """The object, if it can be asked for questions. Raises SettingsError: it cannot; the message says what is wrong."""
    kind = type(task).__name__
    name, size = (_tried(kind, part, getattr, task, part, None) for part in ("name", "size"))
    canvas, identity = (_tried(kind, part, getattr, task, part, None) for part in ("canvas", "identity"))
    for right, said in (
        (isinstance(name, str) and name.strip(), f"its name must be a text, as 'group/task', got {name!r}"),
        (_whole(canvas) and canvas > 0, f"its canvas must be a whole number of positions above 0, got {canvas!r}"),
        (size is None or (_whole(size) and size >= 0), f"its size must be a number of questions or None, got {size!r}"),
        (isinstance(identity, dict), f"its identity must be a dict of plain values, got {identity!r}"),
        *((callable(getattr(task, part, None)), f"it has no method {part}()") for part in ("instance", "judge")),
    ):
        if not right:
            raise SettingsError(f"{kind} is no task: {said} (docs: dlm.tasks.Task)")
    return task


def checked_instance(task: Task, index: int) -> Instance:
    """The task's question of that index. Raises SettingsError: it gives something else, or raises."""
    found = _tried(task.name, f"instance({index})", task.instance, index)
    where = f"task {task.name}: instance({index})"
    if not isinstance(found, Instance):
        raise SettingsError(f"{where} must be a dlm.tasks.Instance, got {found!r:.200}")
    for part in ("instance_id", "task", "prompt", "target"):
        if not isinstance(getattr(found, part), str):
            raise SettingsError(f"{where} must have a text as {part}, got {getattr(found, part)!r:.200}")
    if not isinstance(found.meta, dict):
        raise SettingsError(f"{where} must have a dict as meta, got {found.meta!r:.200}")
    return found


def checked_verdict(task: Task, verdict: Any) -> Verdict:
    """The verdict, its figures plain floats. Raises SettingsError: it is something else."""
    where = f"task {task.name}: judge()"
    if not isinstance(verdict, Verdict):
        raise SettingsError(f"{where} must give a dlm.tasks.Verdict, got {verdict!r:.200}")
    given = {field.name: getattr(verdict, field.name) for field in fields(Verdict)}
    for name in ("score", "strict"):
        value = given[name]
        if (value is not None or name == "score") and not (isinstance(value, Real) and 0 <= float(value) <= 1):
            raise SettingsError(f"{where} must give a {name} from 0 to 1, got {value!r:.200}")
        given[name] = None if value is None else float(value)
    if not (verdict.error is None or isinstance(verdict.error, str)):
        raise SettingsError(f"{where} must give an error as a word or None, got {verdict.error!r:.200}")
    if not isinstance(verdict.parts, dict) or not all(isinstance(part, Real) for part in verdict.parts.values()):
        raise SettingsError(f"{where} must give numbers by name as parts, got {verdict.parts!r:.200}")
    return Verdict(**{**given, "parts": {str(name): float(part) for name, part in verdict.parts.items()}})


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tried(name: str, what: str, act: Callable[..., Any], *args: Any) -> Any:
    try:
        return act(*args)
    except (DlmError, IndexError):
        raise
    except Exception as error:
        raise SettingsError(f"task {name}: {what} failed with {type(error).__name__}: {error}") from error
