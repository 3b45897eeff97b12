"""The loop that every training shares: a budget, a schedule, updates over processes, checkpoints.

What is trained extends :class:`Loop` and says what a step's loss is. Everything a step draws depends on the step's
number alone, so that a run that was killed goes on to the weights that an unbroken one would have had.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor

from dlm.errors import CheckpointError, NumericsError, SettingsError
from dlm.training.checkpoint import read_checkpoint, write_checkpoint

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, how often.

    Attributes:
        minutes, steps: the budget, one of the two; learning rates fall to zero at its end. Extending it and running the
            same command again goes on from the last checkpoint.
        warmup_steps: steps over which the rates rise from zero.
        decay_from: share of the budget at which they begin to fall, linearly to zero; 1: they stay.
        clip: largest norm of the gradient; None: any.
        checkpoint_minutes: how often to save; 0: after every step.
        evaluate_minutes: how often to evaluate, beside the end.
    """

    minutes: float | None = None
    steps: int | None = None
    warmup_steps: int = 100
    decay_from: float = 0.5
    clip: float | None = 1.0
    checkpoint_minutes: float = 3.0
    evaluate_minutes: float = 8.0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise SettingsError("give the training budget as either minutes or steps")
        if not 0 <= self.decay_from <= 1:
            raise SettingsError(f"decay_from must be in [0, 1], got {self.decay_from}")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and self.minutes <= 0):
            raise SettingsError(f"steps must be at least 1, or minutes above 0, got {self.steps or self.minutes}")
        if self.clip is not None and self.clip <= 0:
            raise SettingsError(f"clip must be above 0, or null for none, got {self.clip}")

    def share(self, step: int, seconds: float) -> float:
        """How much of the budget is used, 0 to 1."""
        used = step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))
        return min(1.0, used)

    def rate_factor(self, step: int, share: float) -> float:
        """What the learning rates are multiplied with."""
        fall = 1.0 if share < self.decay_from or self.decay_from == 1 else (1 - share) / (1 - self.decay_from)
        return min(1.0, (step + 1) / max(1, self.warmup_steps)) * fall


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Loop(ABC):
    """Trains ``weights`` (by name); the same run begun again goes on from its last checkpoint.

    Args:
        checkpoint: the file that the run is kept in; None: it is not.
        weights: what is trained.
        optimizers: of these, each with its full learning rate.
        ema: decay of the average of the weights that is kept beside them; None: none is.
        told: what must be the same for a run to go on, such as its settings; kept in the checkpoint.
    """

    every = 50  # steps between two lines of the log
    turns = 1  # updates of a step
    turn = 0

    def __init__(
        self,
        checkpoint: Path | None,
        schedule: Schedule,
        weights: Mapping[str, Tensor],
        optimizers: Sequence[torch.optim.Optimizer],
        ema: float | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        self.checkpoint, self.schedule, self.weights, self.optimizers = checkpoint, schedule, dict(weights), optimizers
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
        self.ema = ema
        self.average = {} if ema is None else {name: w.detach().clone() for name, w in self.weights.items()}
        self.progress = Progress()
        self.device = next(iter(self.weights.values())).device
        state = PartialState(cpu=self.device.type == "cpu")  # a command has joined its processes already
        self.rank, self.world = state.process_index, state.num_processes
        self.told = json.loads(json.dumps({**(told or {}), "processes": self.world}, default=str))
        self._figures: dict[str, list[float]] = defaultdict(list)
        if checkpoint is not None:
            checkpoint.parent.mkdir(parents=True, exist_ok=True)
            if checkpoint.exists():
                self._resume(*read_checkpoint(checkpoint))

    @abstractmethod
    def loss(self, share: float) -> Tensor | None:
        """The loss of step ``progress.step``, ``share`` of the run being done; None: there is nothing to learn from."""

    def evaluate(self) -> dict[str, Any]:
        """Figures of the model as it is, for the log."""
        return {}

    def line(self) -> dict[str, Any]:
        """What the log says of the steps since the last line, beside where the run stands: means of what was noted."""
        return {name: sum(values) / len(values) for name, values in sorted(self._figures.items())}

    def note(self, **figures: float) -> None:
        """Figures of a step, for the log."""
        for name, value in figures.items():
            self._figures[name].append(value)

    def look(self) -> None:  # noqa: B027
        """Called after every step."""

    def run(self, report: Report = lambda line: None) -> None:
        """Train until the budget is used up; ``report`` receives one dictionary per log line."""
        started = time.perf_counter() - self.progress.seconds
        saved = evaluated = self.progress.seconds
        while (share := self._share()) < 1:
            self.train_step(share)
            self.look()
            self.progress.seconds = time.perf_counter() - started
            if self.progress.step % self.every == 0 and self.rank == 0:
                report(self._line())
            if self.progress.seconds - saved >= 60 * self.schedule.checkpoint_minutes:
                self.save()
                saved = self.progress.seconds
            if self.progress.seconds - evaluated > 60 * self.schedule.evaluate_minutes:
                self._evaluate(report)
                evaluated = self.progress.seconds = time.perf_counter() - started
        if self._figures and self.rank == 0:
            report(self._line())
        self.save()
        self._evaluate(report)

    def train_step(self, share: float) -> None:
        """One batch, ``turns`` updates."""
        for turn in range(self.turns):
            self.turn = turn
            loss = self.loss(share)
            if loss is not None:
                if not bool(loss.isfinite()):
                    raise NumericsError(
                        f"the loss of step {self.progress.step} is {float(loss)}: lower the rate, and train weights in"
                        " float32; the last checkpoint stands"
                    )
                loss.backward()
            self.update(self.schedule.rate_factor(self.progress.step, share), loss is not None)
        self.progress.step += 1

    def update(self, factor: float, learns: bool = True) -> None:
        """An optimiser's step on the mean gradient of all processes; none where no process ``learns``."""
        if self.world > 1:
            learns = bool(reduce(torch.tensor(float(learns), device=self.device), "sum"))
        if not learns:
            return
        weights = [w for w in self.weights.values() if w.grad is not None or self.world > 1]
        if self.world > 1:
            flat = torch.cat([(torch.zeros_like(w) if w.grad is None else w.grad).flatten() for w in weights])
            flat = reduce(flat, "mean")
            for w, g in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
                w.grad = g.view_as(w).clone()
        if self.schedule.clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, self.schedule.clip)
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            # A young average follows fast, so that early checkpoints are worth looking at.
            decay = min(self.ema, (1 + self.progress.step) / (10 + self.progress.step))
            with torch.no_grad():
                for name, w in self.weights.items():
                    self.average[name].lerp_(w, 1 - decay)

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.rank == 0 and self.checkpoint is not None:
            write_checkpoint(self.checkpoint, self.state(), {**vars(self.progress), "told": self.told})

    def state(self) -> dict[str, Tensor]:
        """All tensors of the run."""
        state = {f"model.{name}": w.detach() for name, w in self.weights.items()}
        state |= {f"average.{name}": w for name, w in self.average.items()}
        for i, optimizer in enumerate(self.optimizers):
            for key, values in optimizer.state_dict()["state"].items():
                state |= {f"optimizer{i}.{key}.{name}": torch.as_tensor(v) for name, v in values.items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        with torch.no_grad():
            for kind, tensors in (("model", self.weights), ("average", self.average)):
                for name, w in tensors.items():
                    if (kept := state.get(f"{kind}.{name}")) is None or kept.shape != w.shape:
                        raise CheckpointError(
                            f"{self.checkpoint} holds no {name} of shape {list(w.shape)}: it is of another model; give"
                            " that model again, or remove the file to start anew"
                        )
                    w.copy_(kept)
        for i, optimizer in enumerate(self.optimizers):
            memory: dict[int, dict[str, Tensor]] = defaultdict(dict)
            for key, value in state.items():
                if key.startswith(f"optimizer{i}."):
                    _, index, name = key.split(".")
                    memory[int(index)][name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(memory)})

    def _resume(self, state: Mapping[str, Tensor], progress: dict[str, Any]) -> None:
        was, now = _flat(progress.pop("told", {})), _flat(self.told)
        odd = [
            f"{key}: {was.get(key)}, now {now.get(key)}" for key in sorted({*was, *now}) if was.get(key) != now.get(key)
        ]
        if odd:
            raise SettingsError(
                f"{self.checkpoint} belongs to a training with other settings or records ({'; '.join(odd)}): give them"
                " again, or remove it to start anew"
            )
        self.progress = Progress(**progress)
        self.restore(state)

    def _share(self) -> float:
        """Share of the budget used, the same in every process."""
        share = self.schedule.share(self.progress.step, self.progress.seconds)
        if self.world > 1:
            share = float(broadcast(torch.tensor(share, dtype=torch.float64, device=self.device)))
        return share

    def _line(self) -> dict[str, Any]:
        p, figures = self.progress, self.line()
        self._figures.clear()
        share = self.schedule.share(p.step, p.seconds)
        left = (1 / share - 1) * p.seconds / 60
        return {"step": p.step, "minutes": round(p.seconds / 60, 2), "left": round(left, 1), **figures}

    def _evaluate(self, report: Report) -> None:
        if self.rank == 0 and (figures := self.evaluate()):
            report({"step": self.progress.step, **figures})


def decisive(how: Schedule) -> dict[str, Any]:
    """The settings that decide what a run ends with: not how long it is, how often it saves, and how much is computed
    at a time."""
    free = {"steps", "minutes", "checkpoint_minutes", "evaluate_minutes", "batch_size", "micro_batch", "recompute"}
    return {name: value for name, value in asdict(how).items() if name not in free}


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add one JSON line to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
