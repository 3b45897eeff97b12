"""Training batches: addressed by (seed, step, row), so that a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dlm import tasks
from dlm.errors import SettingsError
from dlm.tasks import Stream
from dlm.training.tokenizer import ASSISTANT, USER

K = TypeVar("K")


@dataclass(frozen=True)
class Curriculum:
    """Which tasks and sequence lengths are drawn, and from when on.

    An entry is (weight, share of the run from which it holds), followed by further such pairs where the weight changes
    later: ``(1.0, 0.0, 0.4, 0.3)`` is 1.0 from the beginning and 0.4 after three tenths of the run.

    Attributes:
        tasks: task name to its entry.
        lengths: total sequence length to the entry of batches of that length.
    """

    tasks: dict[str, tuple[float, ...]]
    lengths: dict[int, tuple[float, ...]]

    def __post_init__(self) -> None:
        tables: dict[str, dict[Any, tuple[float, ...]]] = {"tasks": {**self.tasks}, "lengths": {**self.lengths}}
        for name, entries in tables.items():
            if any(len(entry) < 2 or len(entry) % 2 or min(entry) < 0 for entry in entries.values()):
                raise SettingsError(f"{name}: an entry is pairs of a weight and a share, none negative; got {entries}")
            if not any(weight > 0 for weight in self.at(entries, 0.0).values()):
                raise SettingsError(f"{name}: at least one entry needs a weight above 0 and must join at share 0")
        for task in self.tasks:
            tasks.get(task)

    @staticmethod
    def at(entries: dict[K, tuple[float, ...]], share: float) -> dict[K, float]:
        """The weights in force when ``share`` of the run is done."""
        held = {
            key: [weight for weight, since in zip(entry[::2], entry[1::2], strict=True) if since <= share]
            for key, entry in entries.items()
        }
        return {key: weights[-1] for key, weights in held.items() if weights}


@dataclass(frozen=True)
class Batch:
    """Rows ``[prompt | response | end-of-text filler]`` of one length, nothing padded.

    Attributes:
        tokens: the clean rows. ``[B, T]``
        response: True after the prompt; filler included, it is supervised like the rest. ``[B, T]``
        answer: length of the answer with one end token. ``[B]``
        families: the task each row comes from.
    """

    tokens: Int[Tensor, "B T"]
    response: Bool[Tensor, "B T"]
    answer: Float[Tensor, " B"]
    families: list[str]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(self.tokens.to(device), self.response.to(device), self.answer.to(device), self.families)


class Mixture:
    """Draws batches of a run. Half of the rows use the chat template, half put the answer right behind the prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, curriculum: Curriculum, tokens_per_batch: int, seed: int):
        self.tokenizer, self.curriculum = tokenizer, curriculum
        self.tokens_per_batch, self.seed = tokens_per_batch, seed
        self._eos = tokenizer.eos_token_id
        self._user, self._assistant = (tokenizer.convert_tokens_to_ids(token) for token in (USER, ASSISTANT))

    def batch(self, step: int, share: float, rank: int = 0) -> Batch:
        """The batch of a step, ``share`` of the run being done, for one of several processes."""
        length = _weighted(Stream("length", self.seed, step), Curriculum.at(self.curriculum.lengths, share))
        weights = Curriculum.at(self.curriculum.tasks, share)
        rows = max(1, self.tokens_per_batch // length)
        drawn = [self._row(weights, length, (self.seed, step, rank, i)) for i in range(rows)]
        tokens = torch.full((rows, length), self._eos)
        response = torch.zeros(rows, length, dtype=torch.bool)
        for i, (prompt, answer, _) in enumerate(drawn):
            tokens[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            response[i, len(prompt) :] = True
        sizes = torch.tensor([len(answer) + 1.0 for _, answer, _ in drawn])
        return Batch(tokens, response, sizes, [family for _, _, family in drawn])

    def _row(
        self, weights: dict[str, float], length: int, address: tuple[int, ...]
    ) -> tuple[list[int], list[int], str]:
        """A prompt and an answer that fit the length with one end token to spare."""
        stream = Stream("row", *address)
        for attempt in range(1000):
            name = _weighted(stream, weights)
            instance = tasks.get(name).draw("train", *address, attempt)
            prompt, answer = self.tokenizer([instance.prompt, instance.target], add_special_tokens=False)["input_ids"]
            if stream.below(2):
                prompt = [self._user, *prompt, self._assistant]
            if len(prompt) + len(answer) < length:
                return prompt, answer, name
        raise SettingsError(f"no task of {sorted(weights)} fits into {length} tokens; use longer sequences")


def _weighted(stream: Stream, weights: dict[K, float]) -> K:
    """A key of ``weights``, as often as its weight says."""
    point = stream.uniform() * sum(weights.values())
    for key, weight in weights.items():
        point -= weight
        if point < 0:
            return key
    return next(reversed(weights))
