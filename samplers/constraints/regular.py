"""Answers that match a regular expression or a JSON schema, whatever the sampler commits and in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch

from dlm.engine.constraint import Constraint
from dlm.engine.proposal import Proposer, Vocabulary
from dlm.errors import SettingsError
from samplers.constraints.language import Spelling, language
from samplers.constraints.run import RegularRun
from samplers.constraints.schema import checked_pattern, checked_schema


@lru_cache(maxsize=4)
def _spelling(tokenizer: Any, vocab_size: int) -> Spelling:
    return Spelling(tokenizer, vocab_size)


@dataclass(frozen=True)
class Regex(Constraint):
    """The whole answer, up to its first end token, matches ``pattern`` (DINGO, arXiv 2505.23061).

    Positions are taken for independent, as the model answers them, and conditioned on the answer being one that
    matches: the proposals of a step are the most probable such answer, or above temperature 0 a draw from that
    distribution; a proposal's probability is that of its token at its position among all answers that match. So what is
    forced is sure, and is committed at once. Open positions without a proposal (behind the block) may become anything.
    The automaton is that of the library outlines-core over bytes (``pip install 'dlm[constraints]'``), laid over the
    model's tokens; look-around, back references and the character U+001E are not to be had.

    Raises:
        SettingsError: an empty pattern. When it is used: one that is no pattern, or a tokenizer that cannot spell it.
        PromptError: when a row is admitted whose canvas is too short for any answer, or whose given tokens fit none.
    """

    pattern: str
    _spelling: Spelling | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.pattern:
            raise SettingsError("pattern must be a regular expression, got an empty text")

    def bind(self, tokenizer: Any, vocab_size: int) -> Regex:
        if tokenizer is None:
            raise SettingsError("constraint: the model has no tokenizer, so its tokens have no texts")
        bound = replace(self)
        object.__setattr__(bound, "_spelling", _spelling(tokenizer, vocab_size))
        return bound

    def open(
        self, vocabulary: Vocabulary, proposer: Proposer, end_ids: tuple[int, ...], device: torch.device
    ) -> RegularRun:
        if self._spelling is None:
            raise SettingsError("constraint: bind(tokenizer, vocab_size) comes first (dlm.generate does it)")
        lang = language(self._expression, self._spelling, end_ids, vocabulary.width)
        return RegularRun(lang.to(device), vocabulary, proposer)

    @property
    def _expression(self) -> str:
        return checked_pattern(self.pattern)


@dataclass(frozen=True)
class JsonSchema(Regex):
    """The answer is JSON of a schema, with at most one blank between its parts: ``pattern`` is the schema, as text.

    Raises:
        SettingsError: what a regular expression cannot hold to: recursion, bounds of numbers, parts of any type, and
            lengths beyond 20,000; the place in the schema is named.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_schema(self.pattern)

    @property
    def _expression(self) -> str:
        try:
            from outlines_core.json_schema import build_regex_from_schema
        except ImportError as error:
            raise SettingsError("constraint: outlines-core is not installed: pip install 'dlm[constraints]'") from error
        try:
            # Digits of JSON are those of ASCII.
            return checked_pattern(str(build_regex_from_schema(self.pattern)).replace(r"\d", "[0-9]"))
        except (ValueError, TypeError) as error:
            raise SettingsError(f"the JSON schema cannot be used: {error}") from error
