"""Text tasks in the manner of ParallelBench's text writing, over our own texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.records import fingerprint
from dlm.tasks.text.grammar import open_grammar
from dlm.tasks.text.records import OURS
from dlm.tasks.text.task import TextTask
from dlm.tasks.text.writing import Paraphrase, Summarise, WordsToSentence, Writing
from dlm.words import meant, unknown_name

_PREFIX = "parallelbench/text/"
_FILES = {
    "paraphrase": "sentences.txt",
    "summarise": "dialogues.jsonl",
    "words_to_sentence_easy": "words_easy.txt",
    "words_to_sentence_medium": "words_medium.txt",
    "words_to_sentence_hard": "words_hard.txt",
}
# What is asked, and the options of its own.
_KINDS: dict[str, tuple[Callable[..., Writing], list[str]]] = {
    "paraphrase": (Paraphrase, ["similarity"]),
    "summarise": (Summarise, []),
}
TEXT_NAMES = tuple(_PREFIX + short for short in _FILES)


def open_text(name: str, **options: Any) -> TextTask:
    """The text task of that name.

    Options: ``grammar`` (auto | basic | harper | full, see :func:`dlm.tasks.text.grammar.open_grammar`); ``score``
    (grammar: the published headline, which does not look at the content; composite: grammar times content); ``data``
    (a file of your own in place of ours: a sentence, a JSON object or a set of words a line); ``similarity`` (chrf or a
    function's name; paraphrase only); ``words`` (how many; words_to_sentence only). None stands for the default.

    Raises:
        SettingsError: unknown name or option, a value out of range, a data file that cannot be used, or a package of
            the extra ``eval`` that is not installed.
    """
    if name not in TEXT_NAMES:
        raise SettingsError(unknown_name("task", name, TEXT_NAMES))
    short = name.removeprefix(_PREFIX)
    kind, own = _KINDS.get(short, (WordsToSentence, ["words"]))
    known = ["grammar", "score", "data", *own]
    if unknown := [option for option in options if option not in known]:
        near = meant(unknown[0], known)
        raise SettingsError(f"task {name} has no option {unknown[0]!r}{near}; it has {', '.join(known)}")
    given = {option: value for option, value in options.items() if value is not None}
    grammar = open_grammar(str(given.get("grammar", "auto")))
    writing = kind(**{option: given[option] for option in own if option in given})
    questions = writing.questions(str(given.get("data", OURS / _FILES[short])))
    sha256 = fingerprint([asdict(question) for question in questions])
    task = TextTask(name, writing, grammar, str(given.get("score", "grammar")), tuple(questions), sha256)
    task.identity  # noqa: B018  a missing package is found here, not at the first answer
    return task


__all__ = ["TEXT_NAMES", "TextTask", "open_text"]
