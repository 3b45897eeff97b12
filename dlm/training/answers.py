"""Trainings on answers that are there before they begin: how those are made and kept, and the batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.api import deer, generate
from dlm.engine.sampler import Sampler
from dlm.errors import CheckpointError, SettingsError
from dlm.models.causal import CausalModel
from dlm.models.language_model import LanguageModel
from dlm.speculation.deer import Deer
from dlm.tasks.base import Task
from dlm.training.checkpoint import read_checkpoint, write_checkpoint
from dlm.training.loop import Loop, Schedule, decisive
from dlm.training.reinforcement import check_questions, learnt_from, prompt_of
from dlm.training.trainee import Trainee


@dataclass(frozen=True)
class AnswersTraining(Schedule):
    """A schedule, and what every training on answers has.

    Attributes:
        batch: answers of a step, per process.
        rate, weight_decay: of AdamW.
        lora: rank of an adapter that is trained in place of the weights; None: all weights are.
        seed: of batches and masks.
    """

    batch: int = 32
    rate: float = 2e-5
    weight_decay: float = 0.01
    lora: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 1 or self.rate <= 0:
            raise SettingsError(f"batch must be at least 1 and rate above 0, got {self.batch} and {self.rate}")


@dataclass(frozen=True)
class Answers:
    """What is learned from: rows of prompt and answer, padded on the right.

    Attributes:
        tokens: ids. ``[R, T]``
        start: where the answer begins. ``[R]``
        end: where it ends, filler included. ``[R]``
        asked: how many answers were made for these, the wrong ones too.
    """

    tokens: Int[Tensor, "R T"]
    start: Int[Tensor, " R"]
    end: Int[Tensor, " R"]
    asked: int

    @classmethod
    def cat(cls, parts: Sequence[Answers]) -> Answers:
        """All rows of several."""
        width = max((part.tokens.shape[1] for part in parts), default=0)
        wide = [torch.nn.functional.pad(part.tokens, (0, width - part.tokens.shape[1])) for part in parts]
        start, end = (torch.cat([getattr(part, name) for part in parts]) for name in ("start", "end"))
        return cls(torch.cat(wide), start, end, sum(part.asked for part in parts))

    def __len__(self) -> int:
        return len(self.start)


def collect(
    model: LanguageModel,
    tasks: Sequence[Task],
    sampler: Sampler | Deer,
    n: int,
    folder: Path,
    *,
    portion: int = 40,
    seed: int = 0,
    held_out: int = 100,
) -> Iterator[Answers]:
    """The model's right answers to the first ``n`` training questions of each task, a file of ``folder`` a portion; of
    a task without a training split to those behind its first ``held_out``.

    Files that are there already are read, not made. A right answer is one whose score is 1. Of an autoregressive model,
    which ``Deer`` decodes, all answers are kept: they are what is to be foretold.

    Raises:
        CheckpointError: a file that is damaged, or of another model, sampler or seed.
    """
    for task in tasks:
        check_questions(task, held_out, n)
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        for first in range(0, n, portion):
            path = folder / f"{task.name.replace('/', '-')}-{first}.safetensors"
            told: dict[str, Any] = {
                "model": model.name,
                "held_out": held_out,
                "sampler": repr(sampler),
                "seed": seed,
                "size": min(portion, n - first),
            }
            if not path.is_file():
                yield _made(model, task, sampler, first, told, path)
                continue
            tensors, known = read_checkpoint(path)
            if {key: known.get(key) for key in told} != told:
                raise CheckpointError(f"{path} holds answers of another model, sampler or seed: remove {folder}")
            yield Answers(tensors["tokens"], tensors["start"], tensors["end"], told["size"])


def _made(
    model: LanguageModel, task: Task, sampler: Sampler | Deer, first: int, told: Mapping[str, Any], path: Path
) -> Answers:
    asked = [learnt_from(task, first + i, told["held_out"]) for i in range(told["size"])]
    prompts = [prompt_of(model, one) for one in asked]
    seed = told["seed"] * 1_000_003 + first
    ways: dict[str, Any] = {"max_new_tokens": task.canvas, "seed": seed, "batch_size": len(prompts)}
    if isinstance(sampler, Deer):
        assert isinstance(model, CausalModel)
        right = deer(model, None, prompts, temperature=sampler.temperature, **ways)
    else:
        runs = generate(model, prompts, sampler=sampler, **ways)
        right = [run for one, run in zip(asked, runs, strict=True) if task.judge(one, run.text).score == 1]
    rows = [run.prompt_tokens + run.tokens for run in right]
    width = max(map(len, rows), default=0)
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
    start = torch.tensor([len(run.prompt_tokens) for run in right], dtype=torch.long)
    end = torch.tensor([len(row) for row in rows], dtype=torch.long)
    write_checkpoint(path, {"tokens": tokens, "start": start, "end": end}, dict(told))
    return Answers(tokens, start, end, told["size"])


class OnAnswers(Loop):
    """Trains a model on answers, batch by batch.

    Raises:
        SettingsError: no answer to learn from; a block-diffusion model.
    """

    every = 10
    how: Any

    def __init__(self, trainee: Trainee, answers: Answers, how: Any, checkpoint: Path | None) -> None:
        self.how, self.trainee, self.model, self.answers = how, trainee, trainee.model, answers
        if not len(answers):
            raise SettingsError(f"none of {answers.asked} answers is right: there is nothing to learn from")
        if self.model.description.attention_block:
            raise SettingsError("a block-diffusion model never sees what is masked here: take a model without blocks")
        weights = list(trainee.weights.values())
        optimiser = torch.optim.AdamW(weights, lr=how.rate, weight_decay=how.weight_decay)
        told = {"settings": decisive(how), "answers": len(answers), "model": self.model.name}
        super().__init__(checkpoint, how, trainee.weights, [optimiser], told=told)

    def drawn(self) -> tuple[Int[Tensor, "B T"], Int[Tensor, " B"], Int[Tensor, " B"], torch.Generator]:
        """Tokens, starts and ends of a batch that depends on the step alone, and where its further noise comes from."""
        noise = torch.Generator().manual_seed((self.how.seed * 1_000_003 + self.progress.step) * 64 + self.rank)
        lines = torch.randint(len(self.answers), (self.how.batch,), generator=noise)
        return self.answers.tokens[lines], self.answers.start[lines], self.answers.end[lines], noise

    def logits(
        self, tokens: Int[Tensor, "B T"], masked: Bool[Tensor, "B T"], shown: Bool[Tensor, "B T"] | None, end: Tensor
    ) -> tuple[Float[Tensor, "M V"], Int[Tensor, " M"], Int[Tensor, " M"]]:
        """What the model says of the ``masked`` tokens, these tokens, and whose rows they are; of rows as long as
        ``end``, where only what is ``shown`` is seen beside (None: all that is not masked)."""
        hidden = masked if shown is None else masked | ~shown
        valid, about = torch.arange(tokens.shape[1]) < end[:, None], self.model.description
        row, position = masked.nonzero(as_tuple=True)
        at, backbone, device = (position - about.shift).clamp_min(0), self.model.backbone, self.device
        states = backbone.hidden(tokens.masked_fill(hidden, about.mask_id).to(device), None, valid.to(device))
        self.progress.tokens += int(valid.sum()) * self.world
        return (
            backbone.head(states[row.to(device), at.to(device)]),
            tokens[row, position].to(device),
            row.to(device),
        )
