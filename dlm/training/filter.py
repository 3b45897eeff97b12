"""Training of the learned filter: seeded, resumable, judged on prompts it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from dlm.errors import SettingsError
from dlm.training.filter_data import Records
from dlm.training.filter_file import Filter, Inputs, logits_of
from dlm.training.loop import Loop, Schedule

LEVELS = tuple(round(0.5 + 0.01 * i, 2) for i in range(50))


@dataclass(frozen=True)
class FilterTraining:
    """Settings of a training run.

    Attributes:
        hidden: width of the hidden layer.
        steps, batch: updates, and lines per update; None: all of them.
        lr, weight_decay: of AdamW.
        schedule: ``linear``: the rate falls to nothing; ``constant``: it stays, as in the reference.
        start: ``identity``: every output begins with a view of its own confidence; ``random``, as the reference.
        keep: ``best``: the weights that did best on the held-out lines; ``last``, as the reference.
        loss_on: ``masked``: positions that were open; ``all``: the whole block, as the reference.
        wrong_weight: how much dearer a wrong proposal is than a right one.
        held_out: share of the prompts that only judge.
        false_accepts: the largest share of wrong ones among what is committed at the advised threshold.
        check_every: updates between two looks at the held-out lines; the best state of all looks is kept.
        seed: of weights, split and batches.

    Raises:
        SettingsError: a number out of range.
    """

    hidden: int = 64
    steps: int = 4000
    batch: int | None = 512
    lr: float = 3e-3
    weight_decay: float = 0.01
    schedule: Literal["linear", "constant"] = "linear"
    start: Literal["identity", "random"] = "identity"
    keep: Literal["best", "last"] = "best"
    loss_on: Literal["masked", "all"] = "masked"
    wrong_weight: float = 5.0
    held_out: float = 0.1
    false_accepts: float = 0.0001
    check_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch", "check_every"):
            value = getattr(self, name)
            if (name, value) != ("batch", None) and (type(value) is not int or value < 1):
                raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}")
        words = {"schedule": ("linear", "constant"), "start": ("identity", "random"), "keep": ("best", "last")}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise SettingsError(f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")
        for name in ("held_out", "false_accepts"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise SettingsError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if not (self.lr > 0 and self.wrong_weight > 0 and self.weight_decay >= 0):
            raise SettingsError("lr and wrong_weight must be above 0, weight_decay 0 or more")
        if self.loss_on not in ("masked", "all"):
            raise SettingsError(f"loss_on must be masked or all, got {self.loss_on!r}")


@dataclass(frozen=True)
class Level:
    """What committing everything above a probability would do on the held-out lines.

    Attributes:
        threshold: the probability.
        accepted: share of the open positions that are committed.
        precision: share of right ones among them; 1 where there are none.
        recall: share of the right ones that are committed.
    """

    threshold: float
    accepted: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Bin:
    """Held-out open positions with a prediction in ``[low, high)``: their number, mean prediction, share right."""

    low: float
    high: float
    count: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Judgement:
    """A filter on held-out lines.

    Attributes:
        lines, positions: how many lines, and open positions in them.
        loss: mean binary cross-entropy over the open positions, nats.
        base_loss: of the probability itself taken as the prediction; NaN for other inputs.
        levels: what each threshold would do.
        bins: how well the predictions are calibrated.
    """

    lines: int
    positions: int
    loss: float
    base_loss: float
    levels: tuple[Level, ...]
    bins: tuple[Bin, ...]

    def advised(self, false_accepts: float) -> float:
        """The lowest threshold whose wrong ones are at most this share of what is committed; the highest if none."""
        good = [level.threshold for level in self.levels if 1 - level.precision <= false_accepts]
        return min(good, default=LEVELS[-1])


def split(records: Records, share: float, seed: int) -> tuple[Records, Records]:
    """Lines to train on and lines to judge by, no prompt in both.

    Raises:
        SettingsError: too few prompts for two parts.
    """
    prompts = records.prompt.unique()
    if len(prompts) < 2:
        raise SettingsError(f"a filter needs at least 2 prompts, one of them to judge it by, got {len(prompts)}")
    order = prompts[torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))]
    judging = torch.isin(records.prompt, order[: max(1, min(len(prompts) - 1, round(share * len(prompts))))])
    return records[~judging], records[judging]


def train(records: Records, how: FilterTraining, inputs: Inputs, state: Path | None = None) -> tuple[Filter, Judgement]:
    """Train a filter, judge it, and give it the threshold it advises.

    ``state``: a file the run writes at every look and goes on from; the result is the same as that of an unbroken run.

    Raises:
        SettingsError: too few prompts; the state belongs to other settings or records.
    """
    own, held_out = split(records, how.held_out, how.seed)
    if not len(own) or not bool(own.masked.any()):
        raise SettingsError("the records hold no open position to learn from: collect them again")
    run = _Fit(own, held_out, how, inputs, state)
    run.run()
    judgement = judge(run.filter(), held_out)
    return run.filter(judgement.advised(how.false_accepts)), judgement


class _Fit(Loop):
    """A training run: weights, optimiser, and the best weights so far. Batches depend on seed and step alone."""

    def __init__(self, own: Records, held_out: Records, how: FilterTraining, inputs: Inputs, state: Path | None):
        self.own, self.held_out, self.how, self.inputs = own, held_out, how, inputs
        n, noise = own.inputs.shape[1], torch.Generator().manual_seed(how.seed)
        self.layers = [
            _uniform((how.hidden, n), n, noise), _uniform((how.hidden,), n, noise),
            _uniform((n, how.hidden), how.hidden, noise), _uniform((n,), how.hidden, noise),
        ]  # fmt: skip
        if how.start == "identity" and how.hidden >= n:  # its own confidence is by far the best single sign
            with torch.no_grad():
                self.layers[0][:n], self.layers[1][:n] = 2 * torch.eye(n), 0.0
                self.layers[2][:, :n] = 2 * torch.eye(n)
        self.best = {f"best{i}": weight.detach().clone() for i, weight in enumerate(self.layers)}
        self.best_loss = torch.tensor(torch.inf, dtype=torch.float64)
        # Linear: the rate falls to nothing, so that the last weights are no accident of the last batch.
        falls = 0.0 if how.schedule == "linear" else 1.0
        schedule = Schedule(steps=how.steps, warmup_steps=1, decay_from=falls, clip=None, checkpoint_minutes=math.inf)
        optimiser = torch.optim.AdamW(self.layers, lr=how.lr, weight_decay=how.weight_decay)
        told = {"settings": asdict(how), "inputs": inputs, "lines": [len(own), len(held_out)]}
        named = {str(i): weight for i, weight in enumerate(self.layers)}
        super().__init__(state, schedule, named, [optimiser], told=told)

    def loss(self, share: float) -> Tensor:
        """That of a batch of the step's own."""
        lines = torch.arange(len(self.own))
        if self.how.batch is not None:
            noise = torch.Generator().manual_seed(self.how.seed * 1_000_003 + self.progress.step)
            lines = torch.randint(len(self.own), (min(self.how.batch, len(self.own)),), generator=noise)
        return self._loss(self.own, lines)

    def look(self) -> None:
        """Now and then: keep the weights if they are the best so far, and the run."""
        if self.progress.step % self.how.check_every and self.progress.step != self.how.steps:
            return
        with torch.no_grad():
            loss = self._loss(self.held_out, torch.arange(len(self.held_out))).double()
        if loss < self.best_loss or self.how.keep == "last":
            self.best_loss = loss
            self.best = {f"best{i}": weight.detach().clone() for i, weight in enumerate(self.layers)}
        self.save()

    def state(self) -> dict[str, Tensor]:
        """With the best weights."""
        return {**super().state(), **self.best, "best_loss": self.best_loss}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """With the best weights."""
        super().restore(state)
        self.best, self.best_loss = {name: state[name] for name in self.best}, state["best_loss"]

    def _loss(self, records: Records, lines: Tensor) -> Tensor:
        where = (records.masked if self.how.loss_on == "masked" else records.inside)[lines].float()
        right = records.right[lines].float()
        weight = where * torch.where(right > 0, 1.0, self.how.wrong_weight)
        logits = logits_of(self.layers, records.inputs[lines])
        loss: Tensor = binary_cross_entropy_with_logits(logits, right, weight, reduction="sum")
        return loss / weight.sum().clamp_min(1.0)

    def filter(self, threshold: float | None = None) -> Filter:
        """The best weights."""
        weight1, bias1, weight2, bias2 = self.best.values()
        return Filter(weight1, bias1, weight2, bias2, self.inputs, threshold)


def _uniform(shape: tuple[int, ...], fan_in: int, noise: torch.Generator) -> Tensor:
    """torch's usual start of a linear layer."""
    bound = fan_in**-0.5
    return (torch.rand(shape, generator=noise) * 2 * bound - bound).requires_grad_()


def judge(filter: Filter, records: Records) -> Judgement:
    """Precision, recall and calibration of a filter at the open positions of some lines."""
    with torch.no_grad():
        logits = filter(records.inputs)[records.masked]
    right, prob = records.right[records.masked].float(), torch.sigmoid(logits)
    base = float("nan")
    if filter.inputs != "negative_entropy" and len(right):
        raw = records.inputs[records.masked].clamp(1e-6, 1 - 1e-6)
        base = float(torch.nn.functional.binary_cross_entropy(raw, right))
    loss = float(binary_cross_entropy_with_logits(logits, right)) if len(right) else float("nan")
    return Judgement(
        len(records), len(right), loss, base,
        tuple(_level(threshold, prob, right) for threshold in LEVELS),
        tuple(_bin(i / 10, (i + 1) / 10, prob, right) for i in range(10)),
    )  # fmt: skip


def _level(threshold: float, prob: Float[Tensor, " P"], right: Float[Tensor, " P"]) -> Level:
    accepted = prob > threshold
    hits, taken = float(right[accepted].sum()), int(accepted.sum())
    precision = hits / taken if taken else 1.0
    return Level(threshold, taken / max(1, len(prob)), precision, hits / max(1.0, float(right.sum())))


def _bin(low: float, high: float, prob: Float[Tensor, " P"], right: Float[Tensor, " P"]) -> Bin:
    here = (prob >= low) & ((prob < high) if high < 1 else (prob <= 1))
    count = int(here.sum())
    mean = (lambda x: float(x[here].mean())) if count else (lambda x: float("nan"))
    return Bin(low, high, count, mean(prob), mean(right))
