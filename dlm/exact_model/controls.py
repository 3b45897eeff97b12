"""Negative controls: small laws on which a rule for several tokens a forward shows what it does not see."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import pi, sqrt

import torch

from dlm.api import generate
from dlm.engine.sampler import Sampler
from dlm.exact_model.model import OracleBackbone
from dlm.models import LanguageModel

FIRST = 2  # the lowest id of an answer's token; below are the mask and the end of a text
_NAMES = tuple((FIRST + i, FIRST + 4 + i) for i in range(4))
_FOUR = range(FIRST, FIRST + 4)


@dataclass(frozen=True)
class Control:
    """A law: some answers, all equally likely.

    Attributes:
        name: what it is called.
        about: what it tests, in a sentence.
        answers: the answers as token ids.
    """

    name: str
    about: str
    answers: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Positions of an answer."""
        return len(self.answers[0])

    @property
    def at_once(self) -> float:
        """Share of right outputs when all tokens are drawn in one forward."""
        shares = [Counter(column) for column in zip(*self.answers, strict=True)]
        total = 0.0
        for answer in self.answers:
            product = 1.0
            for token, share in zip(answer, shares, strict=True):
                product *= share[token] / len(self.answers)
            total += product
        return total


CONTROLS = (
    Control("names", "one of four names of two tokens: dependence without a token in common", _NAMES),
    Control(
        "lists",
        "four such names in any order: the same inside a name, and each name once",
        tuple(tuple(itertools.chain.from_iterable(order)) for order in itertools.permutations(_NAMES)),
    ),
    Control(
        "parity",
        "four bits with an even sum: any three are independent, all four are not",
        tuple(bits for bits in itertools.product((FIRST, FIRST + 1), repeat=4) if sum(bits) % 2 == 0),
    ),
    Control("orders", "four tokens, each once", tuple(itertools.permutations(_FOUR))),
    Control("modes", "one of four tokens, four times", tuple((token,) * 4 for token in _FOUR)),
    Control(
        "bits", "four bits that have nothing to do with each other",
        tuple(itertools.product((FIRST, FIRST + 1), repeat=4)),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a rule made of a law.

    Attributes:
        rollouts: how often it was decoded.
        accuracy: share of outputs that the law contains.
        forwards: their mean number.
        distance: total variation between the outputs and the law, from 0 to 1.
    """

    rollouts: int
    accuracy: float
    forwards: float
    distance: float


def unavoidable(control: Control, rollouts: int) -> float:
    """The distance that so many exact draws have on average, to a good approximation (each count taken as normal)."""
    share = 1 / len(control.answers)
    return len(control.answers) * sqrt(share * (1 - share) / (2 * pi * rollouts))


def hold(control: Control, sampler: Sampler, rollouts: int, seed: int = 0, batch_size: int = 250) -> Outcome:
    """Decode a law ``rollouts`` times, with the exact marginals given whatever is there already.

    Raises:
        SettingsError: the sampler does not go with this model (``needs``: a tokenizer, a shadow block, ...).
    """
    model = _model(control.answers)
    ask = [[model.description.vocab_size - 1]] * rollouts
    outputs = generate(model, ask, sampler=sampler, max_new_tokens=control.length, seed=seed, batch_size=batch_size)
    found = Counter(tuple(output.tokens) for output in outputs)
    right = sum(found[answer] for answer in control.answers)
    apart = sum(abs(found[answer] / rollouts - 1 / len(control.answers)) for answer in control.answers)
    forwards = sum(output.counts.forwards for output in outputs) / rollouts
    return Outcome(rollouts, right / rollouts, forwards, (apart + 1 - right / rollouts) / 2)


@cache
def _model(answers: Sequence[Sequence[int]]) -> LanguageModel:
    """A model that knows one law; the question is the last id of its vocabulary."""
    question = 1 + max(map(max, answers))
    return LanguageModel(OracleBackbone({question: torch.tensor(answers)}, question + 1), None, "oracle")
