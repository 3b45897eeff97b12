"""Certainty-forcing distillation (dParallel, arXiv 2509.26488): a model learns to be sure of its own answers at once.

The answers are the model's own, decoded one token a step, those kept that are right. A forward sees a block of one half
masked, everything before it, and masks behind; a second one has the other half masked. The loss is the cross-entropy of
the answer's tokens (consistency) and, where the prediction is right already, the entropy of a sharpened distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

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
class DistillationTraining(Schedule):
    """A schedule, and what a step is made of.

    Attributes:
        beta: weight of the certainty term; 0: consistency alone.
        sharpness: temperature T of the distribution whose entropy is lowered.
        block_length: positions that are masked in part; what is left behind the last whole block belongs to it.
        whole_answer: mask the whole answer in part instead, as for Dream.
        mask_share: probability of each position of the block to be masked in the first of the two forwards.
        batch: answers of a step, per process.
        rate, weight_decay: of AdamW.
        lora: rank of an adapter that is trained in place of the weights; None: all weights are.
        seed: of batches and masks.
    """

    beta: float = 2.0
    sharpness: float = 0.5
    block_length: int = 32
    whole_answer: bool = False
    mask_share: float = 0.5
    batch: int = 32
    rate: float = 2e-5
    weight_decay: float = 0.01
    lora: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block_length < 1 or self.batch < 1 or self.rate <= 0:
            raise SettingsError(
                "block_length and batch must be at least 1 and rate above 0, got"
                f" {self.block_length}, {self.batch} and {self.rate}"
            )
        if not 0 < self.mask_share < 1 or self.sharpness <= 0 or self.beta < 0:
            raise SettingsError(
                "mask_share must be in (0, 1), sharpness above 0 and beta at least 0, got"
                f" {self.mask_share}, {self.sharpness} and {self.beta}"
            )


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


class Distillation(OnAnswers):
    """Trains a model on its own right answers; ``how`` is a :class:`DistillationTraining`."""

    def loss(self, share: float) -> Tensor:
        """Both terms over both forwards, the mean of the batch."""
        tokens, start, end, noise = self.drawn()
        tokens = tokens[:, : int(end.max())]
        active = active_blocks(start, end, tokens.shape[1], self.how, noise)
        first = active & (torch.rand(active.shape, generator=noise) < self.how.mask_share)
        columns = torch.arange(tokens.shape[1])
        hidden = (columns >= active.long().argmax(dim=1, keepdim=True)) & ~active & (columns >= start[:, None])
        masked = torch.cat([first, active & ~first])
        told = self.logits(tokens.repeat(2, 1), masked, ~hidden.repeat(2, 1), end.repeat(2))
        ce, certainty, right = two_terms(*told, len(masked), self.how.sharpness)
        self.note(consistency=float(ce.detach().mean()), certainty=float(certainty.detach().mean()), right=right)
        return (ce + self.how.beta * certainty).sum() / len(tokens)


def active_blocks(
    start: Int[Tensor, " B"], end: Int[Tensor, " B"], width: int, how: DistillationTraining, noise: torch.Generator
) -> Bool[Tensor, "B T"]:
    """One block of each answer, drawn evenly; the last one goes on to the end."""
    columns = torch.arange(width)
    if how.whole_answer:
        return (columns >= start[:, None]) & (columns < end[:, None])
    blocks = ((end - start) // how.block_length).clamp_min(1)
    number = (torch.rand(len(start), generator=noise) * blocks).long()
    first = start + number * how.block_length
    last = torch.where(number == blocks - 1, end, first + how.block_length)
    return (columns >= first[:, None]) & (columns < last[:, None])


def two_terms(
    logits: Float[Tensor, "M V"], labels: Int[Tensor, " M"], row: Int[Tensor, " M"], rows: int, sharpness: float
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"], float]:
    """Per forward the mean cross-entropy over its masked positions, the mean entropy (nats) of softmax(logits / T) over
    those whose likeliest token is the label, 0 where there is none; and their share of all."""
    logits = logits.float()
    right = logits.argmax(dim=1) == labels
    each = cross_entropy(logits, labels, reduction="none")
    sharp = (logits / sharpness).log_softmax(dim=1)
    entropy = -(sharp.exp() * sharp).sum(dim=1)
    zeros = logits.new_zeros(rows)
    counts, hits = (zeros.index_add(0, row, x) for x in (torch.ones_like(each), right.to(each.dtype)))
    ce = zeros.index_add(0, row, each) / counts.clamp_min(1)
    certainty = zeros.index_add(0, row, entropy * right) / hits.clamp_min(1)
    return ce, certainty, float(right.float().mean())
