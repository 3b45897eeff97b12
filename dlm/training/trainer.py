"""The trainer: seeded, resumable at any moment, on one process or several (torchrun)."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from dlm.errors import SettingsError
from dlm.models import LanguageModel, LLaDAConfig, LLaDAModelLM
from dlm.training.checkpoint import read_checkpoint, write_checkpoint
from dlm.training.data import Mixture
from dlm.training.loader import Loader
from dlm.training.muon import Muon
from dlm.training.objective import loss_of, mask_blocks, mask_responses, noised, two_copies


@dataclass(frozen=True)
class Recipe:
    """How long, how fast, how often.

    Attributes:
        minutes, steps: the budget, one of the two; learning rates fall to zero at its end. Extending it and running the
            same command again goes on from the last checkpoint.
        matrix_rate, other_rate: learning rates of Muon (matrices) and AdamW (embeddings, head, norms).
        warmup_steps: steps over which the rates rise from zero.
        decay_from: share of the budget at which they begin to fall, linearly to zero.
        ema: decay of the weight average, which is what gets exported.
        suffix_share: rows whose masks are a suffix, see :func:`dlm.training.objective.mask_responses`.
        clip: largest norm of the gradient.
        checkpoint_minutes, evaluate_minutes: how often to save and to evaluate.
        dtype: autocast dtype, ``float32`` or ``bfloat16``.
        compile: run the body through torch.compile.
        workers: processes that make batches ahead, see :class:`dlm.training.loader.Loader`.
    """

    minutes: float | None = None
    steps: int | None = None
    matrix_rate: float = 0.006
    other_rate: float = 0.0008
    warmup_steps: int = 100
    decay_from: float = 0.5
    ema: float = 0.997
    suffix_share: float = 0.15
    clip: float = 1.0
    checkpoint_minutes: float = 3.0
    evaluate_minutes: float = 8.0
    dtype: str = "float32"
    compile: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise SettingsError("give the training budget as either minutes or steps")
        if not 0 <= self.decay_from < 1:
            raise SettingsError(f"decay_from must be in [0, 1), got {self.decay_from}")
        if self.dtype not in ("float32", "bfloat16"):
            raise SettingsError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")

    def share(self, step: int, seconds: float) -> float:
        """How much of the budget is used, 0 to 1."""
        used = step / self.steps if self.steps is not None else seconds / (60 * (self.minutes or 1))
        return min(1.0, used)

    def rate_factor(self, step: int, share: float) -> float:
        """What the learning rates are multiplied with."""
        fall = 1.0 if share < self.decay_from else (1 - share) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warmup_steps) * fall


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """Trains a LLaDA-layout model into ``folder``; running it again goes on from the last checkpoint.

    ``evaluate`` maps a model with averaged weights to figures for the log; ``report`` receives one dictionary per log
    line.
    """

    def __init__(
        self,
        config: LLaDAConfig,
        recipe: Recipe,
        data: Mixture,
        folder: Path,
        evaluate: Callable[[LanguageModel], dict[str, float]] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.recipe, self.data, self.folder, self.evaluate = recipe, data, folder, evaluate
        self.device = device or torch.device("cpu")
        torch.manual_seed(data.seed)
        self.model = LLaDAModelLM(config).to(self.device)  # type: ignore[arg-type]
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.optimizers = _optimizers(self.model, recipe)
        self.progress = Progress()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.hidden = torch.compile(self.model.hidden, dynamic=False) if recipe.compile else self.model.hidden
        self.loader = Loader(data, self.rank, recipe.workers)
        self._losses: dict[str, list[float]] = defaultdict(list)
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.folder / "checkpoint.safetensors"

    def run(self, report: Callable[[dict], None] = lambda line: None) -> None:
        """Train until the budget is used up."""
        started = time.perf_counter() - self.progress.seconds
        saved = evaluated = self.progress.seconds
        while (share := self._share()) < 1:
            self.train_step(share)
            self.progress.seconds = time.perf_counter() - started
            if self.progress.step % 50 == 0 and self.rank == 0:
                report(self._line(share))
            if self.progress.seconds - saved > 60 * self.recipe.checkpoint_minutes:
                self.save()
                saved = self.progress.seconds
            if self.progress.seconds - evaluated > 60 * self.recipe.evaluate_minutes:
                self._evaluate(report)
                evaluated = self.progress.seconds = time.perf_counter() - started
        self.save()
        self._evaluate(report)

    def train_step(self, share: float) -> None:
        """One batch, one update."""
        recipe, step = self.recipe, self.progress.step
        batch = self.loader.batch(step, share)
        generator = torch.Generator().manual_seed((self.data.seed * 1_000_003 + step) * 64 + self.rank)
        about = self.model.description
        if length := about.attention_block:
            masked, weight = mask_blocks(batch.response, length, recipe.suffix_share, generator)
        else:
            masked, each = mask_responses(batch.response, recipe.suffix_share, generator)
            weight = each[:, None].expand(masked.shape)
        batch, masked, weight = batch.to(self.device), masked.to(self.device), weight.to(self.device)
        fed: tuple[Tensor, ...] = (noised(batch.tokens, masked, about.mask_id),)
        if length:
            fed = two_copies(fed[0], batch.tokens, length)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            logits = self.model.head(self.hidden(*fed)[:, : masked.shape[1]][masked])
        loss, rows = loss_of(logits, batch, masked, weight)
        loss.backward()
        self._update(recipe.rate_factor(step, share))
        for family, value in zip(batch.families, rows.tolist(), strict=True):
            self._losses[family].append(value)
        self.progress.step += 1
        self.progress.tokens += batch.tokens.numel() * self.world

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Begin a fresh run with given weights, an exported model's; a run that goes on keeps its own."""
        if self.progress.step == 0:
            self.model.load_state_dict(weights, strict=True)
            for name, p in self.model.named_parameters():
                self.average[name].copy_(p)

    def language_model(self) -> LanguageModel:
        """The averaged weights as a model to decode with."""
        model = LLaDAModelLM(self.model.config).to(self.device)  # type: ignore[arg-type]
        model.load_state_dict(self.average, strict=True)
        return LanguageModel(model.eval(), self.data.tokenizer, "training")

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.rank == 0:
            write_checkpoint(self.checkpoint, self._state(), vars(self.progress))

    def _share(self) -> float:
        """Share of the budget used, the same in every process."""
        share = self.recipe.share(self.progress.step, self.progress.seconds)
        if self.world > 1:
            shared = torch.tensor(share, dtype=torch.float64)
            dist.broadcast(shared, src=0)
            share = shared.item()
        return share

    def _update(self, factor: float) -> None:
        params = [p for p in self.model.parameters() if p.grad is not None]
        if self.world > 1:
            flat = torch.cat([p.grad.flatten() for p in params])
            dist.all_reduce(flat)
            for p, g in zip(params, flat.split([p.numel() for p in params]), strict=True):
                p.grad.copy_(g.view_as(p) / self.world)
        torch.nn.utils.clip_grad_norm_(params, self.recipe.clip)
        for optimizer, rate in zip(self.optimizers, (self.recipe.matrix_rate, self.recipe.other_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # A young average follows fast, so that early checkpoints are worth looking at.
        decay = min(self.recipe.ema, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                self.average[name].lerp_(p, 1 - decay)

    def _line(self, share: float) -> dict:
        p = self.progress
        losses = {family: sum(values) / len(values) for family, values in sorted(self._losses.items())}
        self._losses.clear()
        left = (1 - share) / share * p.seconds / 60 if share > 0 else math.inf
        return {
            "step": p.step, "tokens": p.tokens, "minutes": round(p.seconds / 60, 2), "left": round(left, 1),
            "tokens_per_second": round(p.tokens / max(p.seconds, 1e-9)), "loss": losses,
        }  # fmt: skip

    def _evaluate(self, report: Callable[[dict], None]) -> None:
        if self.evaluate is not None and self.rank == 0:
            report({"step": self.progress.step, "accuracy": self.evaluate(self.language_model())})

    def _state(self) -> dict[str, Tensor]:
        state = {f"model.{name}": p.detach() for name, p in self.model.named_parameters()}
        state |= {f"average.{name}": p for name, p in self.average.items()}
        for i, optimizer in enumerate(self.optimizers):
            for key, values in optimizer.state_dict()["state"].items():
                state |= {f"optimizer{i}.{key}.{name}": torch.as_tensor(v) for name, v in values.items()}
        return state

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state, progress = read_checkpoint(self.checkpoint)
        self.progress = Progress(**progress)
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        for name, value in self.average.items():
            value.copy_(state[f"average.{name}"])
        for i, optimizer in enumerate(self.optimizers):
            memory: dict[int, dict[str, Tensor]] = defaultdict(dict)
            for key, value in state.items():
                if key.startswith(f"optimizer{i}."):
                    _, index, name = key.split(".")
                    memory[int(index)][name] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(memory)})


def _optimizers(model: LLaDAModelLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in model.named_parameters():
        (matrices if ".blocks." in name and p.dim() == 2 else others).append(p)
    return [
        Muon(matrices, lr=recipe.matrix_rate),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def append_line(path: Path, line: dict) -> None:
    """Add one JSON line to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
