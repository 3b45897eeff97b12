"""What the text tasks ask about: our own sentences, dialogues and word sets, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

from dlm.errors import SettingsError
from dlm.tasks.records import read_records

OURS = Path(__file__).parent / "data"


def sentences(source: str) -> list[str]:
    """A sentence a line; blank lines do not count.

    Raises:
        SettingsError: there is no such file, it is no UTF-8 text, or there is nothing in it.
    """
    return [line for _, line in _lines(source)]


def dialogues(source: str) -> list[tuple[str, str]]:
    """(dialogue, summary) of lines like ``{"dialogue": "Ann: Hi.\\nBob: Hi.", "summary": "Ann greets Bob."}``.

    Beside ``FILE.jsonl``, ``source`` can be what :func:`dlm.tasks.records.open_dataset` reads.

    Raises:
        SettingsError: there is no such source, or a record has no text under one of the two keys.
    """
    rows = read_records(source, ("dialogue", "summary"), "test", "task.data")
    return [(row["dialogue"].strip(), row["summary"].strip()) for row in rows]


def word_sets(source: str, count: int) -> list[tuple[str, ...]]:
    """The first ``count`` words of every line.

    Raises:
        SettingsError: as :func:`sentences`; or a line has fewer words, or one of them twice.
    """
    sets = []
    for number, line in _lines(source):
        words = tuple(line.split()[:count])
        if len(words) < count:
            raise SettingsError(f"{source}, line {number} has {len(words)} words: set task.words to at most that")
        if len({word.casefold() for word in words}) < count:
            raise SettingsError(f"{source}, line {number} has a word twice: write {count} different ones first")
        sets.append(words)
    return sets


def _lines(source: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers in the file, from 1."""
    path = Path(source).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}): set task.data to a text file") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text in UTF-8 ({error}): convert it, or set task.data to another") from error
    lines = [(i, line.strip()) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise SettingsError(f"{path} is empty: set task.data to a file with some lines")
    return lines
