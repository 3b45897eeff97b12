"""Policy-gradient training on rollouts: answers of the model, rewards, and the tokens' log-probabilities.

GRPO over decoding trajectories: CJ-GRPO (``estimator=trajectory``, ``weighting=transitions``), diffu-GRPO (``full``)
and coupled-GRPO (``coupled``) differ by settings alone, so that they can be compared with the same rollouts and seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from math import isfinite
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from dlm.api import Generation, Prompt, generate
from dlm.engine.interfaces import Cache
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models.language_model import LanguageModel
from dlm.replaying import Trajectory
from dlm.tasks.base import Instance, Task
from dlm.training.estimators import ESTIMATORS, Estimator, counted, log_probs
from dlm.training.loop import Loop, Schedule, decisive
from dlm.training.objectives import Baseline, advantages, k3, surrogate, token_weights, transition_weights
from dlm.training.trainee import Trainee
from dlm.words import not_among

Reward = Callable[[Instance, Generation], float]
Weighting = Literal["tokens", "transitions"]


@dataclass(frozen=True)
class RolloutTraining(Schedule):
    """A schedule whose steps are rollouts.

    Attributes:
        baseline: see :func:`dlm.training.objectives.advantages`.
        questions, answers: of a rollout, per process: so many questions, each answered so many times.
        iterations: updates on one rollout.
        ratio_clip: how far the ratio of new to old probabilities may go from 1.
        rate, weight_decay: of AdamW.
        held_out: the first questions of a task without a training split, which are not learned from.
        batch_size, micro_batch: rows decoded together; states that are looked at together for the update.
        seed: of questions, noise, masks and fresh weights.
    """

    baseline: Baseline = "mean"
    questions: int = 4
    answers: int = 8
    iterations: int = 1
    ratio_clip: float = 0.5
    rate: float = 3e-5
    weight_decay: float = 0.0
    held_out: int = 100
    batch_size: int = 32
    micro_batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("questions", "answers", "iterations", "batch_size", "micro_batch"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.answers < 2:
            raise SettingsError("answers must be at least 2, or there is nothing to compare an answer with")
        if not 0 < self.ratio_clip <= 1:
            raise SettingsError(f"ratio_clip must be in (0, 1], got {self.ratio_clip}")
        if self.rate <= 0 or self.held_out < 0:
            raise SettingsError(f"rate must be above 0 and held_out at least 0, got {self.rate} and {self.held_out}")


@dataclass(frozen=True)
class PolicyTraining(RolloutTraining):
    """What is made of a rollout of the model's own.

    Attributes:
        estimator: see :mod:`dlm.training.estimators`.
        weighting: ``tokens``: every token alike; ``transitions``: every step alike, as CJ-GRPO has it.
        kl: weight of the k3 estimate of the divergence from the weights before the training; 0: none.
        lora: rank of an adapter that is trained in place of the weights; None: all weights are.
        past_end: whether tokens behind the first end token count, as in CJ-GRPO's code.
        recompute: compute activations again in the backward pass instead of keeping them.
    """

    estimator: Estimator = "trajectory"
    weighting: Weighting = "tokens"
    kl: float = 0.0
    lora: int | None = None
    past_end: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("estimator", ESTIMATORS), ("weighting", get_args(Weighting))):
            if getattr(self, name) not in known:
                raise SettingsError(not_among(name, getattr(self, name), known))
        if self.kl < 0:
            raise SettingsError(f"kl must be at least 0, got {self.kl}")


@dataclass
class _Rollout:
    """Answers, what they are worth, what each token counts, and what was said of them before the updates."""

    rows: list[Trajectory]
    worth: Tensor
    weights: Tensor
    old: dict[int, Tensor]
    reference: dict[int, Tensor]


class Reinforcement(Loop):
    """Trains a model on its own answers to a task's questions; ``reward`` is the task's judge unless another is given,
    ``judge`` maps the model to a figure for the log.

    Questions are of the task's training split, or those behind the first ``held_out``. A rollout in which every
    group has equal rewards teaches nothing: its step is counted, and the log says ``equal`` 1.

    Raises:
        SettingsError: too few questions; a reward that is no finite number.
    """

    every = 1

    def __init__(
        self,
        trainee: Trainee,
        task: Task,
        sampler: Sampler,
        how: PolicyTraining,
        checkpoint: Path | None,
        reward: Reward | None = None,
        judge: Callable[[LanguageModel], float] | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.how, self.task, self.sampler, self.judge, self.cache = how, task, sampler, judge, cache
        if trainee.model.description.attention_block:
            raise SettingsError("rollouts of a block-diffusion model cannot be replayed whole: take one without blocks")
        if reward is not None and not callable(reward):
            raise SettingsError(f"reward must be callable with a question and its answer, got {reward!r}")
        whose = "judge" if reward is None else type(reward).__qualname__
        self.trainee = trainee.with_reference() if how.kl else trainee
        self.model, self.turns = trainee.model, how.iterations
        self.reward = reward or (lambda instance, run: task.judge(instance, run.text).score)
        check_questions(task, how.held_out)
        weights = trainee.weights
        optimiser = torch.optim.AdamW(
            list(weights.values()), lr=how.rate, betas=(0.9, 0.99), weight_decay=how.weight_decay
        )
        told = {"settings": decisive(how), "task": task.name, "sampler": repr(sampler), "cache": repr(cache)}
        told |= {"model": trainee.model.name, "reward": whose}
        super().__init__(checkpoint, how, weights, [optimiser], told=told)
        self.rollout: _Rollout | None = None

    def loss(self, share: float) -> Tensor | None:
        """The clipped surrogate on the step's rollout, which the first turn makes."""
        how = self.how
        if self.turn == 0 or self.rollout is None:
            self.rollout = self._roll_out()
        rollout = self.rollout
        if not rollout.worth.any():
            return None
        new = self._log_probs(self.turn, gradients=True)
        # Before the first update new and old are the same; where masks are drawn every turn has masks of its own.
        old = rollout.old.setdefault(self.turn if how.estimator != "trajectory" else 0, new.detach())
        each = surrogate(new, old, rollout.worth, how.ratio_clip)
        if how.kl:
            divergence = k3(new, rollout.reference[self.turn if how.estimator != "trajectory" else 0])
            each = each + how.kl * divergence
            self.note(kl=float((divergence.detach() * rollout.weights).sum()))
        with torch.no_grad():
            far = ((new - old).exp() - 1).abs() > how.ratio_clip
            self.note(clipped=float((far & (rollout.weights > 0)).sum() / (rollout.weights > 0).sum().clamp_min(1)))
        return (each * rollout.weights).sum()

    def evaluate(self) -> dict[str, Any]:
        """What ``judge`` says of the model."""
        return {} if self.judge is None else {"held_out": self.judge(self.model)}

    def _roll_out(self) -> _Rollout:
        how, step = self.how, self.progress.step
        first = (step * self.world + self.rank) * how.questions
        questions = [learnt_from(self.task, first + i, how.held_out) for i in range(how.questions)]
        asked = [one for one in questions for _ in range(how.answers)]
        runs = generate(
            self.model, [prompt_of(self.model, one) for one in asked],
            sampler=self.sampler, cache=self.cache, max_new_tokens=self.task.canvas,
            seed=(how.seed * 1_000_003 + step) * 64 + self.rank, batch_size=how.batch_size,
            record=None if self.sampler.keeps else "commits",
        )  # fmt: skip
        rewards = torch.tensor([self._worth(one, run) for one, run in zip(asked, runs, strict=True)])
        worth = advantages(rewards.view(how.questions, how.answers), how.baseline)
        rows = [Trajectory.of(run) for run in runs]
        counts = counted(rows, () if how.past_end else self.model.description.eos_ids)
        weights = token_weights(counts) if how.weighting == "tokens" else transition_weights(rows, counts)
        self.note(
            reward=float(rewards.mean()), equal=float((worth == 0).all(dim=1).float().mean()),
            forwards=sum(run.counts.forwards for run in runs) / len(runs),
        )  # fmt: skip
        self.progress.tokens += int(counts.sum()) * self.world
        made = _Rollout(rows, worth.flatten().to(self.device), weights.to(self.device), {}, {})
        if not made.worth.any():
            return made
        self.rollout = made
        seeded = how.estimator != "trajectory"
        made.old = {turn: self._log_probs(turn) for turn in range(1, self.turns)} if seeded else {}
        if how.kl:
            with self.trainee.reference() as before:
                turns = range(self.turns if seeded else 1)
                made.reference = {turn: self._log_probs(turn, model=before) for turn in turns}
        return made

    def _worth(self, instance: Instance, run: Generation) -> float:
        given = self.reward(instance, run)
        if not isinstance(given, int | float) or not isfinite(given):
            raise SettingsError(
                f"the reward of {run.text!r} for question {instance.instance_id} is {given!r}: return a finite number"
            )
        return float(given)

    def _log_probs(self, turn: int, gradients: bool = False, model: Any = None) -> Tensor:
        assert self.rollout is not None
        how, seed = self.how, (self.how.seed * 1_000_003 + self.progress.step) * self.turns + turn
        return log_probs(
            model or self.model, self.rollout.rows, how.estimator, seed,
            micro_batch=how.micro_batch, gradients=gradients, checkpoint=how.recompute,
        )  # fmt: skip


def learnt_from(task: Task, number: int, held_out: int) -> Instance:
    """Question ``number`` of the task's training split, or of what lies behind its first ``held_out`` questions."""
    if has_training_split(task):
        return task.instance(number, "train")  # type: ignore[call-arg]
    return task.instance(held_out + (number if task.size is None else number % (task.size - held_out)))


def prompt_of(model: LanguageModel, instance: Instance) -> Prompt:
    """A question as the model is asked: as a chat, if it knows any."""
    chat = model.tokenizer is not None and model.tokenizer.chat_template is not None
    return [dict(message) for message in instance.messages] if chat else instance.prompt


def has_training_split(task: Task) -> bool:
    """Whether a task has questions that are for training."""
    return "split" in signature(task.instance).parameters


def check_questions(task: Task, held_out: int, n: int = 1) -> None:
    """Raise SettingsError when a task has fewer than ``n`` questions to learn from."""
    if not has_training_split(task) and task.size is not None and task.size < held_out + n:
        raise SettingsError(
            f"{task.name} has {task.size} questions and no training split: held_out={held_out} leaves too few to learn"
            f" from, {n} are asked for"
        )
