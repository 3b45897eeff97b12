"""A local file in place of a task's data set, so that nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlm.errors import SettingsError

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def with_local_data(tasks: list[Any], manager: Any, path: str, shots_path: str | None) -> list[dict[str, Any]]:
    """The configuration of the one task that was asked for, its data taken from files.

    Without ``shots_path`` worked examples come from the same file; the harness leaves the question itself out.

    Args:
        tasks: what was asked for, as the harness resolved it.
        manager: the harness's ``TaskManager``.
        path, shots_path: files of JSON lines, CSV or Parquet with the columns of the task's own data.

    Raises:
        SettingsError: several tasks, a group, a task written in Python, a file that is not there or of another kind.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    entry = manager.task_index.get(tasks[0]) if len(tasks) == 1 and isinstance(tasks[0], str) else None
    if entry is None or entry.yaml_path is None:
        raise SettingsError("path= is the data of one task: name exactly one in --tasks, and no group")
    config: dict[str, Any] = load_yaml(entry.yaml_path, resolve_func=True)
    if not isinstance(config.get("task"), str) or "class" in config:
        raise SettingsError(f"path= cannot replace the data of {tasks[0]}: it is a group or reads its data by itself")
    asked = str(config.get("test_split") or config.get("validation_split") or "test")
    files = {asked: _checked("path", path)}
    shown = str(config.get("fewshot_split") or config.get("training_split") or asked)
    if shots_path is not None:
        shown = shown if shown != asked else "train"
        files[shown] = _checked("shots_path", shots_path)
    else:
        shown = asked
    readers = {READERS[Path(file).suffix] for file in files.values()}
    if len(readers) > 1:
        raise SettingsError("path= and shots_path= must be files of one kind")
    config |= {
        "dataset_path": readers.pop(), "dataset_name": None, "dataset_kwargs": {"data_files": files},
        "training_split": shown if shown != asked else None, "validation_split": None, "test_split": asked,
        "fewshot_split": shown,
    }  # fmt: skip
    return [config]


def _checked(key: str, path: str) -> str:
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise SettingsError(f"{key}={path}: there is no such file")
    if file.suffix not in READERS:
        raise SettingsError(f"{key}={path}: the name must end in {', '.join(READERS)}")
    return str(file)
