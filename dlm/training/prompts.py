"""Prompts from a file or a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dlm.errors import SettingsError
from dlm.tasks.records import HUB, TABLES, open_dataset

if TYPE_CHECKING:
    from dlm.api import Prompt


def is_source(data: str) -> bool:
    """Whether ``data`` names a file, a folder or a dataset of the hub, and not tasks."""
    return data.startswith(HUB) or data.endswith((".txt", ".jsonl", *TABLES)) or Path(data).expanduser().is_dir()


def read_prompts(data: str, n: int | None, column: str, split: str) -> Sequence[Prompt]:
    """The first ``n`` prompts (None: all).

    Args:
        data: ``FILE.txt`` (a prompt a line), ``FILE.jsonl`` (a JSON string or chat a line), ``FILE.parquet``,
            ``FILE.csv``, a folder written by ``Dataset.save_to_disk``, or ``hf:OWNER/NAME[:CONFIGURATION]`` of the
            Hugging Face hub.
        n: how many.
        column: where a dataset keeps its prompts: texts, or chats.
        split: which part of a dataset is read.

    Raises:
        SettingsError: there is nothing of that kind, or what is there holds no prompts.
    """
    if data.endswith((".txt", ".jsonl")):
        return _lines(Path(data).expanduser())[:n]
    rows = open_dataset(data, split, "data")
    columns = list(rows.column_names or [])
    if column not in columns:
        raise SettingsError(f"{data} has no column {column!r}: set column= to one of {', '.join(map(repr, columns))}")
    prompts = [row[column] for row in islice(rows, n)]
    wrong = next((i for i, prompt in enumerate(prompts) if not isinstance(prompt, str | list) or not prompt), None)
    if wrong is not None:
        raise SettingsError(f"{data}, row {wrong}: column {column!r} holds neither a text nor a chat")
    if not prompts:
        raise SettingsError(f"{data} holds no prompt")
    return prompts


def _lines(path: Path) -> list[Prompt]:
    if not path.is_file():
        raise SettingsError(f"there is no file {path} to take prompts from")
    text = path.read_text(encoding="utf-8")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise SettingsError(f"{path} holds no prompt: give one a line")
    if path.suffix == ".txt":
        return [line.removesuffix("\r") for _, line in lines]
    prompts: list[Prompt] = []
    for number, line in lines:
        try:
            prompt = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{path}, line {number} is not JSON ({error}): a string or a chat per line") from error
        if not isinstance(prompt, str | list) or not prompt:
            raise SettingsError(f"{path}, line {number} is neither a string nor a chat")
        prompts.append(prompt)
    return prompts
