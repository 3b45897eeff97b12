"""Scores of a text against words, a reference or its source; each in [0, 1]."""

from __future__ import annotations

import importlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from dlm.errors import SettingsError

Similarity = Callable[[str, str], float]


def inclusion(text: str, words: Sequence[str]) -> float:
    """The share of ``words`` that ``text`` has as whole words, capitals ignored, simple inflections allowed.

    Inflections are those of regular nouns and verbs: -s, -es, -ies, -ves, -ed, -ing and the possessive. Words joined
    by a hyphen count singly. "sun" is in "two suns" and "sun-dried", not in "sunny"
    (the published scorer looks for substrings).
    """
    there = _words(text)
    return sum(_has(there, _words(word)) for word in words) / len(words) if words else 1.0


def inclusion_substring(text: str, words: Sequence[str]) -> float:
    """1.0 when every word is a substring of ``text``, capitals told apart: the published rule, for comparison."""
    return float(all(word in text for word in words))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFC", text).casefold())


def _has(there: list[str], parts: list[str]) -> bool:
    """Whether the parts of a word ("ice-cream" has two) follow each other, the last one inflected or not."""
    if not parts:
        return False
    *first, last = parts
    forms = inflections(last)
    n = len(first)
    return any(there[i] in forms and there[i - n : i] == first for i in range(n, len(there)))


@cache
def inflections(word: str) -> frozenset[str]:
    """``word`` and its regular inflections; irregular ones (took, men) and derived words (painter) are not known."""
    forms = {word, word + "s"}
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(word + "es")
    if re.search(r"[^aeiou]y$", word):
        forms |= {word[:-1] + "ies", word[:-1] + "ied", word + "ing"}
    elif word.endswith("ie"):
        forms |= {word + "d", word[:-2] + "ying"}
    elif word.endswith(("ee", "oe", "ye")):
        forms |= {word + "ing", *([word + "d"] if len(word) > 3 else [])}  # freed; but see has not seed
    elif word.endswith("e"):
        forms |= {word + "d", word[:-1] + "ing"}
    else:
        short = re.fullmatch(r"[^aeiou]*[aeiou][^aeiouwxy]", word)  # stop, stopped; never stoped
        ends = re.search(r"[aeiou][^aeiouwxy]$", word)  # visit, visited; begin, beginning
        stems = ([] if short else [word]) + ([word + word[-1]] if ends else [])
        forms |= {stem + ending for stem in stems for ending in ("ed", "ing")}
    if found := re.search(r"(?:lf|fe|af|rf)$", word):
        forms.add(word[: found.end() - (2 if found[0] == "fe" else 1)] + "ves")
    return frozenset(forms)


def rouge(text: str, reference: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L, F-measures with the Porter stemmer, of ``text`` against ``reference`` (Lin 2004).

    Words are runs of a-z and 0-9: other characters do not count.
    """
    scores = _rouge().score(reference, text)
    return {name: float(scores[name].fmeasure) for name in ("rouge1", "rouge2", "rougeL")}


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


def bleu(text: str, reference: str) -> float:
    """BLEU-4 of one sentence against another (Papineni et al. 2002), unsmoothed, capitals told apart.

    Without a run of four tokens in common it is 0. The tokens are those of sacrebleu's ``13a``, the usual ones:
    punctuation is cut off.
    """
    return min(float(_sacrebleu()[0].corpus_score([text], [[reference]]).score) / 100, 1.0)


def chrf(text: str, reference: str) -> float:
    """chrF2: the F2-measure of runs of one to six characters, blanks left out (Popovic 2015)."""
    return min(float(_sacrebleu()[1].corpus_score([text], [[reference]]).score) / 100, 1.0)


@cache
def _sacrebleu() -> tuple[Any, Any]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    return BLEU(smooth_method="none", tokenize="13a", effective_order=False), CHRF()


@cache
def open_similarity(name: str) -> Similarity:
    """How near a paraphrase is to its source: ``chrf``, or a function of yours as ``package.module.function``.

    The function gets (answer, source) and returns a number in [0, 1]; here a BERTScore can be put in.

    Raises:
        SettingsError: there is no such function.
    """
    if name == "chrf":
        return chrf
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"task.similarity must be chrf or package.module.function, got {name!r}: {error}"
        ) from error
    if not callable(found):
        raise SettingsError(f"task.similarity must name a function, {name!r} is none")
    return found
