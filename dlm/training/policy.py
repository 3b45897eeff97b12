"""Training of an unmasking policy (after Jazbec et al., arXiv 2512.09106): GRPO over what it committed when.

The model does not change: a step costs its rollouts. An action is a step of a row, whose log-probability is the sum
over the open positions of what was drawn for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from dlm.api import Run
from dlm.engine.events import StepEvent
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.models.language_model import LanguageModel
from dlm.prompts import prompt_job
from dlm.tasks.base import Instance, Task
from dlm.trace import Recorder
from dlm.training.loop import Loop, decisive
from dlm.training.objectives import advantages, surrogate
from dlm.training.policy_file import Policy, logits_of, policy_inputs, wanted
from dlm.training.reinforcement import RolloutTraining, check_questions, learnt_from, prompt_of

MakeSampler = Callable[[Policy, bool], Sampler]


@dataclass(frozen=True)
class UnmaskingTraining(RolloutTraining):
    """What a rollout of a policy is worth, and what the policy is.

    Attributes:
        alpha: the reward is the judge's score times ((L - forwards + 1) / L) ** alpha, L the positions to fill.
        threshold: the rule that it begins as; None: every position alike, as the paper.
        width: of the layer, a multiple of its two heads.
    """

    alpha: float = 6.0
    threshold: float | None = 0.9
    width: int = 16
    questions: int = 8
    iterations: int = 2
    rate: float = 5e-3
    held_out: int = 20
    batch_size: int = 64
    micro_batch: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 2 or self.width % 2:
            raise SettingsError(f"width must be a multiple of 2, got {self.width}")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise SettingsError(f"threshold must be between 0 and 1, got {self.threshold}")
        if self.alpha < 0:
            raise SettingsError(f"alpha must be at least 0, got {self.alpha}")


class Watch(Recorder):
    """Notes of every step what the policy was shown and what it drew."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(None)
        self.policy, self.rows, self.kept = policy, list[int](), list[tuple[Tensor, ...]]()

    def take(self, event: StepEvent) -> None:
        """Note a step of every row."""
        view, n = event.view, len(event.rows)
        self.rows += [row.job.index for row in event.rows]
        drawn = wanted(view, self.policy(view), explore=True)
        # Clones: what was made in inference mode cannot be differentiated through.
        seen = (policy_inputs(view), view.eligible, view.positions, drawn)
        self.kept.append(tuple(one[:n].clone() for one in seen))

    def states(self) -> tuple[Tensor, ...]:
        """All of them, one a line, as wide as the widest."""
        width = max(kept[1].shape[1] for kept in self.kept)
        return tuple(torch.cat([_widened(one, width) for one in ones]) for ones in zip(*self.kept, strict=True))


def _widened(values: Tensor, width: int) -> Tensor:
    behind = (0, 0) * (values.dim() - 2)
    return pad(values, (*behind, 0, width - values.shape[1]))


def log_probs(weights: dict[str, Tensor], states: Sequence[Tensor]) -> Float[Tensor, "S 1"]:
    """Of what was drawn at each state: open positions are drawn by themselves, so it is a sum."""
    shown, open_, positions, drawn = states
    logits = logits_of(weights, shown, open_, positions)
    each = torch.where(drawn, logsigmoid(logits), logsigmoid(-logits))
    return each.masked_fill(~open_, 0.0).sum(dim=1, keepdim=True)


@dataclass
class _Rollout:
    """States, what the rows they are of are worth, what each counts, and what was said of them before the updates."""

    states: tuple[Tensor, ...]
    worth: Tensor
    weights: Tensor
    old: Tensor


class Unmasking(Loop):
    """Trains a policy on a model's answers to the questions of some tasks, by turns.

    ``make`` builds the sampler of a policy that explores, or does not; ``judge`` maps a policy to figures for the log.

    Raises:
        SettingsError: too few questions; a reward that is no finite number.
    """

    every = 1

    def __init__(
        self,
        model: LanguageModel,
        tasks: Sequence[Task],
        make: MakeSampler,
        how: UnmaskingTraining,
        checkpoint: Path | None,
        start: Policy | None = None,
        judge: Callable[[Policy], dict[str, Any]] | None = None,
    ) -> None:
        self.model, self.tasks, self.make, self.how, self.judge = model, list(tasks), make, how, judge
        for task in tasks:
            check_questions(task, how.held_out)
        self.turns = how.iterations
        begun = start or Policy.fresh(how.threshold, how.width, seed=how.seed)
        weights = {name: w.to(model.device, torch.float64, copy=True) for name, w in begun.weights.items()}
        optimiser = torch.optim.AdamW(
            [w.requires_grad_() for w in weights.values()],
            lr=how.rate,
            betas=(0.9, 0.99),
            weight_decay=how.weight_decay,
        )
        told = {"settings": decisive(how), "tasks": [task.name for task in tasks], "model": model.name}
        super().__init__(checkpoint, how, weights, [optimiser], told=told | {"sampler": repr(make(begun, True).blocks)})
        self.rollout: _Rollout | None = None

    def policy(self) -> Policy:
        """As it is."""
        return Policy({name: weight.detach().clone() for name, weight in self.weights.items()})

    def loss(self, share: float) -> Tensor | None:
        """The clipped surrogate on the step's rollout, which the first turn makes."""
        if self.turn == 0 or self.rollout is None:
            self.rollout = self._roll_out()
        made, size, loss = self.rollout, self.how.micro_batch, None
        if not made.worth.any():
            return None
        for first in range(0, len(made.old), size):
            if loss is not None:
                loss.backward()
            part = slice(first, first + size)
            new = log_probs(self.weights, [one[part] for one in made.states])
            each = surrogate(new, made.old[part], made.worth[part], self.how.ratio_clip)
            loss = (each[:, 0] * made.weights[part]).sum()
        return loss

    def evaluate(self) -> dict[str, Any]:
        """What ``judge`` says of the policy."""
        return {} if self.judge is None else self.judge(self.policy())

    def _roll_out(self) -> _Rollout:
        how, step = self.how, self.progress.step
        first, asked = (step * self.world + self.rank) * how.questions, list[tuple[Task, Instance]]()
        for number in range(first, first + how.questions):
            task = self.tasks[number % len(self.tasks)]
            asked += [(task, learnt_from(task, number // len(self.tasks), how.held_out))] * how.answers
        jobs = [prompt_job(self.model, i, prompt_of(self.model, q), t.canvas, {}) for i, (t, q) in enumerate(asked)]
        policy, seed = self.policy(), (how.seed * 1_000_003 + step) * 64 + self.rank
        watch = Watch(policy)
        runs = Run(self.model, jobs, self.make(policy, True), None, None, seed, how.batch_size).collect(watch)
        scores = [task.judge(one, run.text).score for (task, one), run in zip(asked, runs, strict=True)]
        rewards = [
            score * (max(0, task.canvas - run.counts.forwards + 1) / task.canvas) ** how.alpha
            for (task, _), score, run in zip(asked, scores, runs, strict=True)
        ]
        worth = advantages(torch.tensor(rewards, dtype=torch.float64).view(-1, how.answers), how.baseline)
        forwards = torch.tensor([run.counts.forwards for run in runs], dtype=torch.float64)
        self.note(
            reward=sum(rewards) / len(rewards), right=sum(scores) / len(scores), forwards=float(forwards.mean()),
            equal=float((worth == 0).all(dim=1).double().mean()),
        )  # fmt: skip
        # The mean over a row's steps, then over rows, as published.
        row, states = torch.tensor(watch.rows), watch.states()
        counted = torch.bincount(row, minlength=len(runs)).double()
        self.progress.tokens += len(row)
        with torch.no_grad():
            parts = zip(*(one.split(how.micro_batch) for one in states), strict=True)
            old = torch.cat([log_probs(self.weights, part) for part in parts])
        weights = 1 / (counted[row] * len(runs))
        return _Rollout(states, worth.flatten()[row].to(self.device), weights.to(self.device), old)
