"""The text tasks as the evaluation sees them: questions and verdicts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict, instance_id
from dlm.tasks.text.grammar import Basic, Grammar, Issue
from dlm.tasks.text.writing import TextQuestion, Writing
from dlm.words import not_among

MAX_CHARS = 4000  # of an answer, far more than the canvas holds: what follows is not looked at
ISSUES_KEPT = 10
HEADLINES = ("grammar", "composite")


@dataclass(frozen=True)
class TextTask:
    """A task whose answers are free text: zero-shot, 64 positions to fill, as published.

    The headline is grammar alone, as published: a fluent sentence that ignores the question scores 1. With
    ``headline="composite"`` it is grammar times content, the first version's score. Both are always in the parts.

    Attributes:
        name: ``parallelbench/text/...``.
        writing: what is asked, and how content is scored.
        grammar: what says whether an answer is grammatical.
        headline: ``grammar`` or ``composite``.
        questions: all of them.
        data_sha256: of the questions, their wording included.
        canvas: positions to fill.
    """

    name: str
    writing: Writing
    grammar: Grammar
    headline: str
    questions: tuple[TextQuestion, ...] = field(repr=False)
    data_sha256: str
    canvas: int = 64

    def __post_init__(self) -> None:
        if self.headline not in HEADLINES:
            raise SettingsError(not_among("task.score", self.headline, HEADLINES))
        seen: set[str] = set()
        for question in self.questions:
            if question.prompt in seen:
                raise SettingsError(f"task.data has the same record twice, leave one out: {question.prompt[-80:]!r}")
            seen.add(question.prompt)

    @property
    def size(self) -> int:
        """How many questions there are."""
        return len(self.questions)

    @property
    def identity(self) -> dict[str, Any]:
        """The hash of the questions, the grammar back end, and the versions of the packages that the scores use."""
        backend = {"grammar_backend": self.grammar.backend, **self.grammar.versions}
        return {"data_sha256": self.data_sha256, **backend, **self.writing.identity}

    def instance(self, index: int) -> Instance:
        """The ``index``-th question, counted from 0.

        Raises:
            IndexError: there are fewer.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"{self.name} has {self.size} questions, counted from 0: there is no {index}")
        question = self.questions[index]
        key = instance_id(self.name, question.prompt, question.meta)
        return Instance(key, self.name, question.prompt, question.target, question.meta)

    def judge(self, instance: Instance, output: str) -> Verdict:
        """Score an answer up to its first blank line.

        Parts: ``grammar``; ``grammar_basic``, the rules without a dependency, always; one ``grammar_...`` for every
        further checker; the figures of the task; ``composite``. Errors: ``empty``; ``too_long``, more than 4000
        characters, of which the rest is not scored; ``ungrammatical``; then that of the content.
        """
        whole = _answer(output)
        text = whole[:MAX_CHARS]
        issues = [issue for issue in self.grammar.check(text) if not _is_given(issue, instance.prompt)]
        content = self.writing.parts(text, instance.meta)
        parts = {"grammar": float(not issues), "grammar_basic": float(not Basic().check(text))}
        for source in self.grammar.sources[1:]:
            parts[f"grammar_{source}"] = float(bool(text) and all(issue.source != source for issue in issues))
        parts["composite"] = parts["grammar"] * content["content"]
        parts |= {key: value for key, value in content.items() if key != "content"}
        if not text:
            error: str | None = "empty"
        elif len(whole) > MAX_CHARS:
            error = "too_long"
        else:
            error = "ungrammatical" if issues else self.writing.error(content)
        kept = [str(issue) for issue in issues[:ISSUES_KEPT]]
        return Verdict(parts[self.headline], error=error, parsed={"issues": kept}, parts=parts)


def _answer(output: str) -> str:
    """What counts of an answer: the text up to the first blank line; halves of characters become U+FFFD."""
    head = re.sub("[\ud800-\udfff]", "\ufffd", output.lstrip()[: 2 * MAX_CHARS])
    return re.split(r"\n[ \t\r]*\n", head, maxsplit=1)[0].strip()


def _is_given(issue: Issue, prompt: str) -> bool:
    """Whether an issue is only about a word that the question has too: a name, most often."""
    if issue.kind not in ("Spelling", "Capitalization"):
        return False
    word = re.sub(r"['\u2019]s$", "", issue.text)
    if issue.kind == "Capitalization" and not word[:1].isupper():
        return False
    flags = re.I if issue.kind == "Spelling" and word.islower() else 0
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt, flags) is not None
