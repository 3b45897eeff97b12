"""Is a text grammatical? One interface over several back ends, none of which needs a network.

``check(text)`` lists what is wrong; a text is grammatical when the list is empty. None of the back ends is numerically
comparable with LanguageTool, the published one (ParallelBench, arXiv 2510.04767): results say which one they used.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol

from dlm.errors import SettingsError
from dlm.tasks.text.extras import installed, require, version
from dlm.words import not_among

if TYPE_CHECKING:
    from harper import Lint, Linter

Backend = Literal["auto", "basic", "harper", "full"]
BACKENDS: tuple[Backend, ...] = ("auto", "basic", "harper", "full")
# Kinds of Harper's findings that are no error in the language: taste, regional use and layout; and its choice of words,
# which is most often about a blank inside a compound ("hair dryer"): 2 of our 200 clean texts, next to no broken one.
HARPER_IGNORED = frozenset(
    {"Style", "Enhancement", "Readability", "Regionalism", "Redundancy", "Formatting", "WordChoice"}
)
LINK_SECONDS = 120.0  # for one answer
LINK_WORDS = 60  # longer sentences would take minutes: they count as wrong
_LINK_OPTIONS = ("-graphics=0", "-null=0", "-verbosity=1", "-timeout=60")

_OPENING, _CLOSING = "\"'\u201c\u2018([", "\"'\u201d\u2019)]"
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
_BROKEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
_FOREIGN = re.compile(r"(?:(?![\u0041-\u024f\u1e00-\u1eff\ufb00-\ufb06])[^\W\d_])+")  # letters that are not Latin
_DOUBLES = frozenset({"had", "that"})  # English doubles these: "all that he had had", "I know that that helps"
# Sounds that the first letter hides.
_VOWEL_SOUND = re.compile(r"(?:hour|honest|honou?r|heir)", re.I)
_CONSONANT_SOUND = re.compile(r"(?:one|once|uni(?!n|m)|us(?:e|u|a)|eu|ewe|ub|ut(?:il|en|op)|ur(?:in|an(?!u)))", re.I)


@dataclass(frozen=True)
class Issue:
    """Something wrong in a text.

    Attributes:
        source: which checker found it: ``basic``, ``harper`` or ``link``.
        kind: what it is, in that checker's word.
        start, end: the place, in characters.
        text: the characters there.
    """

    source: str
    kind: str
    start: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.source} {self.kind}: {self.text[:60]!r}"


class Grammar(Protocol):
    """A grammar checker."""

    @property
    def backend(self) -> str:
        """Its name."""
        ...

    @property
    def versions(self) -> dict[str, str]:
        """Programs and packages whose version can change its findings."""
        ...

    @property
    def sources(self) -> tuple[str, ...]:
        """The checkers it asks; the sources of its issues."""
        ...

    def check(self, text: str) -> list[Issue]:
        """What is wrong with ``text``, in the order of the checkers; empty: nothing."""
        ...


def open_grammar(backend: str) -> Grammar:
    """The back end of that name; ``auto``: ``harper`` where harper-py is installed, else ``basic``.

    Raises:
        SettingsError: unknown name, or what it needs is not installed.
    """
    if backend not in BACKENDS:
        raise SettingsError(not_among("task.grammar", backend, BACKENDS))
    if backend == "basic" or (backend == "auto" and not installed("harper")):
        return Basic()
    require("harper", f"task.grammar={backend}")
    if backend == "full":
        if shutil.which("link-parser") is None:
            raise SettingsError(
                "task.grammar=full needs the program link-parser: apt install link-grammar, or use harper"
            )
        if _link_issues("The cat sat on the mat."):
            raise SettingsError("link-parser does not understand English here: repair it, or use task.grammar=harper")
        return Harper(link=True)
    return Harper()


@dataclass(frozen=True)
class Basic:
    """Rules without a dependency: there are words, in Latin letters, without broken characters; none stands twice in a
    row; a/an fits the next one; a capital (or a digit) comes first and a full stop, question or exclamation mark last.
    """

    backend: str = "basic"
    sources: tuple[str, ...] = ("basic",)

    @property
    def versions(self) -> dict[str, str]:
        """None: the rules are part of this package."""
        return {}

    def check(self, text: str) -> list[Issue]:
        """What is wrong with ``text``."""
        found = list(_words_issues(text))
        if text.strip() and not text.rstrip().rstrip(_CLOSING).endswith((".", "!", "?", "\u2026")):
            found.append(Issue("basic", "final_mark", len(text), len(text), ""))
        return found


@dataclass(frozen=True)
class Harper:
    """Harper's findings that are errors (see :data:`HARPER_IGNORED`), and the basic rules but the one on the last mark,
    which LanguageTool does not have either.

    With harper-py 0.2.0 it accepts 199 of our 200 clean sentences and summaries, when told the names in them as the
    tasks do (without, it takes 18 of the summaries' names for misspelled). After one corruption it rejects all
    with a doubled word or a wrong article, but only 5 % of those with two neighbours swapped and 2 % of those with a
    word dropped: it is lenient about word order. With link-grammar 5.12, on the sentences alone, it rejects 69 %
    and 36 % of these, and 8 % of the clean ones.

    A spelling counts when it is wrong in American and in British English, and when the word is no capitalised word
    inside a sentence: such are names, most often.

    Attributes:
        link: ask link-grammar too; a sentence then also needs a complete linkage.
    """

    link: bool = False

    @property
    def backend(self) -> str:
        """``harper``, or ``full`` with link-grammar."""
        return "full" if self.link else "harper"

    @property
    def sources(self) -> tuple[str, ...]:
        """The checkers it asks."""
        return ("basic", "harper", "link") if self.link else ("basic", "harper")

    @property
    def versions(self) -> dict[str, str]:
        """The versions of harper-py and of link-parser."""
        return {"harper-py": version("harper-py"), **({"link-parser": _link_version()} if self.link else {})}

    def check(self, text: str) -> list[Issue]:
        """What is wrong with ``text``."""
        found = [*_words_issues(text), *_harper_issues(text)]
        return [*found, *_link_issues(text)] if self.link else found


def _words_issues(text: str) -> Iterator[Issue]:
    """Nothing there, no words, strange characters, a small first letter, a word twice, the wrong article."""
    if not text.strip():
        yield Issue("basic", "empty", 0, len(text), text)
        return
    for kind, pattern in (("broken_character", _BROKEN), ("foreign_script", _FOREIGN)):
        for found in pattern.finditer(text):
            yield Issue("basic", kind, *found.span(), found[0])
    words = list(_WORD.finditer(text))
    if not words:
        yield Issue("basic", "no_words", 0, len(text), text[:40])
    opening = text.lstrip().lstrip(_OPENING)[:1]
    if opening.islower():
        yield Issue("basic", "capital", text.index(opening), text.index(opening) + 1, opening)
    for first, second in pairwise(words):
        if text[first.end() : second.start()].strip():
            continue  # punctuation stands between them
        pair = (first.start(), second.end(), text[first.start() : second.end()])
        if first[0].lower() == second[0].lower() not in _DOUBLES:
            yield Issue("basic", "repeated_word", *pair)
        named = first[0] == "A" and text[: first.start()].rstrip(f" {_OPENING}")[-1:] not in ("", ".", "!", "?", "\n")
        if not named and _article_is_wrong(first[0].lower(), second[0]):  # "plan A is" has no article
            yield Issue("basic", "article", *pair)


def _article_is_wrong(article: str, word: str) -> bool:
    if article not in ("a", "an") or len(word) == 1 or word.isupper():
        return False  # letters and abbreviations are spelled out or read as words: no telling
    if _VOWEL_SOUND.match(word):
        return article == "a"
    vowel = word[0].lower() in "aeiou" and not _CONSONANT_SOUND.match(word)
    return (article == "an") != vowel


_LOCK = threading.Lock()  # a linter may not be called from two threads at once


@cache
def _linter(dialect: Literal["AMERICAN", "BRITISH"]) -> Linter:
    from harper import Dialect, Linter

    return Linter(Dialect[dialect])


def _harper_issues(text: str) -> list[Issue]:
    with _LOCK:
        lints = [lint for lint in _linter("AMERICAN").lint(text, language="plaintext") if _counts(text, lint)]
        if any(lint.lint_kind == "Spelling" for lint in lints):
            british = _linter("BRITISH").lint(text, language="plaintext")
            wrong = {(lint.span.start, lint.span.end) for lint in british if lint.lint_kind == "Spelling"}
            lints = [x for x in lints if x.lint_kind != "Spelling" or (x.span.start, x.span.end) in wrong]
    return [Issue("harper", lint.lint_kind, lint.span.start, lint.span.end, lint.problem_text) for lint in lints]


def _counts(text: str, lint: Lint) -> bool:
    if lint.lint_kind != "Spelling":
        return lint.lint_kind not in HARPER_IGNORED
    before = text[: lint.span.start].rstrip(f" {_OPENING}")
    return not (lint.problem_text[:1].isupper() and before and before[-1] not in ".!?\n")


@cache
def _link_version() -> str:
    found = re.search(r"\d+\.\d+[\w.]*", _link_parser(["--version"], ""))
    return found[0] if found else "unknown"


def _link_issues(text: str) -> list[Issue]:
    """Sentences without a complete linkage, or too long for one."""
    flat = " ".join(text.split())
    sentences = list(re.finditer(r"\S.*?(?:[.!?]+[\"'\u201d\u2019)]*(?=\s|$)|$)", flat))
    # Text in front of the first letter would be a command (!) or a comment (%) to the program.
    lines = [re.sub(r"^[\W_]+", "", found[0]) for found in sentences]
    pairs = [(found, line) for found, line in zip(sentences, lines, strict=True) if line]
    long = [Issue("link", "too_long", *found.span(), found[0][:80]) for found, line in pairs if _long(line)]
    asked = [(found, line) for found, line in pairs if not _long(line)]
    said = _link_parser(["en", *_LINK_OPTIONS], "".join(line + "\n" for _, line in asked))
    linked = re.findall(r"^(No complete|Found \d+ linkage)", said, re.M)
    if len(linked) != len(asked):
        raise SettingsError(f"link-parser answered {len(linked)} of {len(asked)} sentences: use task.grammar=harper")
    return long + [
        Issue("link", "linkage", *found.span(), found[0][:80])
        for (found, _), answer in zip(asked, linked, strict=True)
        if not answer.startswith("Found")
    ]


def _long(line: str) -> bool:
    return len(line.split()) > LINK_WORDS or len(line) > 10 * LINK_WORDS


def _link_parser(options: list[str], given: str) -> str:
    try:
        done = subprocess.run(
            ["link-parser", *options], input=given, capture_output=True, text=True, timeout=LINK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SettingsError(
            f"link-parser took over {LINK_SECONDS:.0f} s for an answer: use task.grammar=harper"
        ) from error
    if done.returncode:
        raise SettingsError(f"link-parser failed, repair it or use task.grammar=harper: {done.stderr.strip()[-300:]}")
    return done.stdout
