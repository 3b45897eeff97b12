"""What the text tasks ask, and how they look at the content of an answer (ParallelBench, arXiv 2510.04767)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dlm.errors import SettingsError
from dlm.tasks.text import records, scores
from dlm.tasks.text.extras import require, version


@dataclass(frozen=True)
class TextQuestion:
    """One record as a question: what :class:`dlm.tasks.Instance` is made of."""

    prompt: str
    target: str
    meta: dict[str, Any]


class Writing(Protocol):
    """What tells the text tasks apart."""

    @property
    def identity(self) -> dict[str, Any]:
        """Packages and settings that can change the figures.

        Raises:
            SettingsError: such a package is not installed.
        """
        ...

    def questions(self, source: str) -> list[TextQuestion]:
        """Every record of a file as a question."""
        ...

    def parts(self, text: str, meta: dict[str, Any]) -> dict[str, float]:
        """The figures of the content, each in [0, 1]; the composite takes the one called ``content``."""
        ...

    def error(self, parts: dict[str, float]) -> str | None:
        """What is wrong with the content, in one word."""
        ...


@dataclass(frozen=True)
class Paraphrase:
    """Say a sentence in other words.

    Figures: ``one_minus_bleu`` against the source, ``similarity`` to the source, content = their product. The target is
    the source itself, as nothing better is known; an answer that copies it has the error ``copied``.

    Attributes:
        similarity: see :func:`dlm.tasks.text.scores.open_similarity`. Published is BERTScore: figures with another one
            belong in another table.
    """

    similarity: str = "chrf"

    def __post_init__(self) -> None:
        scores.open_similarity(self.similarity)

    @property
    def identity(self) -> dict[str, Any]:
        """The version of sacrebleu, and which similarity it is."""
        require("sacrebleu", "a paraphrase task")
        return {"similarity": self.similarity, "sacrebleu": version("sacrebleu")}

    def questions(self, source: str) -> list[TextQuestion]:
        """A sentence a line."""
        asked = (
            "Paraphrase the sentence below: say the same in other words.\n"
            "Return only the paraphrase, nothing else.\nSentence: {}\nParaphrase:"
        )
        return [TextQuestion(asked.format(text), text, {"source": text}) for text in records.sentences(source)]

    def parts(self, text: str, meta: dict[str, Any]) -> dict[str, float]:
        """Distance from the source's wording, similarity to the source, and their product."""
        source = meta["source"]
        new = 1 - scores.bleu(text, source) if text else 0.0  # of an empty answer, as published
        similarity = min(max(float(scores.open_similarity(self.similarity)(text, source)), 0.0), 1.0)
        same = float(_bare(text) == _bare(source))
        return {"one_minus_bleu": new, "similarity": similarity, "copied": same, "content": new * similarity}

    def error(self, parts: dict[str, float]) -> str | None:
        """``copied``: the answer is the source, punctuation and capitals aside."""
        return "copied" if parts["copied"] else None


@dataclass(frozen=True)
class Summarise:
    """Sum up a dialogue in one sentence. Figures: ROUGE-1, -2, -L against our summary; content = ROUGE-L."""

    @property
    def identity(self) -> dict[str, Any]:
        """The version of rouge_score."""
        require("rouge_score", "a summary task")
        return {"rouge-score": version("rouge-score")}

    def questions(self, source: str) -> list[TextQuestion]:
        """A dialogue and its summary a line."""
        asked = (
            "Summarise the dialogue below in one sentence.\n"
            "Return only the summary, nothing else.\nDialogue:\n{}\nSummary:"
        )
        pairs = records.dialogues(source)
        return [TextQuestion(asked.format(text), summary, {"summary": summary}) for text, summary in pairs]

    def parts(self, text: str, meta: dict[str, Any]) -> dict[str, float]:
        """ROUGE against the reference."""
        rouge = scores.rouge(text, meta["summary"])
        return {**rouge, "content": rouge["rougeL"]}

    def error(self, parts: dict[str, float]) -> str | None:
        """``unrelated``: no word in common with the reference."""
        return None if parts["rouge1"] else "unrelated"


@dataclass(frozen=True)
class WordsToSentence:
    """Put given words into one sentence.

    Figures: ``inclusion`` (all words are there, inflected or not: 0 or 1), ``inclusion_share`` of them, and
    ``inclusion_substring`` (the published rule, which finds "sun" in "sunny"); content = inclusion. No right answer is
    kept: the target is empty.

    Attributes:
        words: how many; the packaged sets have up to 7.
    """

    words: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.words, int) or isinstance(self.words, bool) or self.words < 1:
            raise SettingsError(f"task.words must be a positive integer, got {self.words!r}")

    @property
    def identity(self) -> dict[str, Any]:
        """Nothing: the rules are part of this package."""
        return {}

    def questions(self, source: str) -> list[TextQuestion]:
        """A set of words a line."""
        return [TextQuestion(self._prompt(w), "", {"words": list(w)}) for w in records.word_sets(source, self.words)]

    @staticmethod
    def _prompt(words: Sequence[str]) -> str:
        if len(words) == 1:
            return f"Write one natural sentence that contains the word {words[0]}."
        return f"Write one natural sentence that contains the words {', '.join(words[:-1])} and {words[-1]}."

    def parts(self, text: str, meta: dict[str, Any]) -> dict[str, float]:
        """The share of the words that are there, and both rules for all of them."""
        share = scores.inclusion(text, meta["words"])
        complete = float(share == 1)
        published = scores.inclusion_substring(text, meta["words"])
        return {"inclusion": complete, "inclusion_share": share, "inclusion_substring": published, "content": complete}

    def error(self, parts: dict[str, float]) -> str | None:
        """``missing_word``."""
        return None if parts["inclusion"] else "missing_word"


def _bare(text: str) -> str:
    """Letters and digits only, to compare sentences."""
    return "".join(re.findall(r"[^\W_]+", text.casefold()))
