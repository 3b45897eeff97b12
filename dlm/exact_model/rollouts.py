"""Decode a question many times through :func:`dlm.generate` and count the right answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dlm.api import generate
from dlm.engine.sampler import Sampler
from dlm.exact_model.model import OracleTokenizer, oracle_model
from dlm.exact_model.question import SolvedQuestion
from dlm.models import LanguageModel


@dataclass(frozen=True)
class Rollouts:
    """What came out.

    Attributes:
        n: how often the question was decoded.
        right: how many outputs are among the question's answers.
        scored: how many the task's own parser and scorer accept.
        forwards: how many outputs took so many forwards.
        forwards_right: the same of the right ones. A lost row has no exact marginals any more, so that a rule that
            reads confidences may go on differently.
    """

    n: int
    right: int
    scored: int
    forwards: dict[int, int]
    forwards_right: dict[int, int]


def roll(question: SolvedQuestion, sampler: Sampler, n: int, seed: int = 0, batch_size: int = 250) -> Rollouts:
    """Ask a question ``n`` times; brackets, quotes and commas are given, the slots are decoded.

    The rows are equal and differ in their noise alone (``seed``).
    """
    model = oracle_model([question])
    layout, slots = question.layout, question.slots
    outputs = generate(
        model, [question.instance.messages] * n, sampler=sampler, max_new_tokens=len(layout), seed=seed,
        batch_size=batch_size, pinned=given(model, question),
    )  # fmt: skip
    tokenizer = tokenizer_of(model)
    answers = {tuple(tokenizer.ids[token] for token in answer) for answer in question.answers}
    written = Counter(output.text for output in outputs)
    right = [tuple(output.tokens[slot] for slot in slots) in answers for output in outputs]
    forwards = [output.counts.forwards for output in outputs]
    return Rollouts(
        n=n,
        right=sum(right),
        scored=sum(count for text, count in written.items() if question.task.judge(question.instance, text).score == 1),
        forwards=dict(Counter(forwards)),
        forwards_right=dict(Counter(f for f, good in zip(forwards, right, strict=True) if good)),
    )


def given(model: LanguageModel, question: SolvedQuestion) -> dict[int, int]:
    """Generated position to token id of all that is no slot."""
    ids = tokenizer_of(model).ids
    return {place: ids[piece] for place, piece in enumerate(question.layout) if piece is not None}


def tokenizer_of(model: LanguageModel) -> OracleTokenizer:
    """The tokenizer, as what it is."""
    assert isinstance(model.tokenizer, OracleTokenizer)
    return model.tokenizer
