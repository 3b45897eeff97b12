"""Masked-diffusion training of a model from tasks: seeded, resumable at any moment, on one process or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlm.errors import SettingsError
from dlm.models import LanguageModel, LLaDAConfig, LLaDAModelLM
from dlm.training.data import Mixture
from dlm.training.loader import Loader
from dlm.training.loop import Loop, Schedule
from dlm.training.muon import Muon
from dlm.training.objective import loss_of, mask_blocks, mask_responses, noised, two_copies


@dataclass(frozen=True)
class Recipe(Schedule):
    """A schedule, and what training a model from scratch needs beside it.

    Attributes:
        matrix_rate, other_rate: learning rates of Muon (matrices) and AdamW (embeddings, head, norms).
        ema: decay of the weight average, which is what gets exported.
        suffix_share: rows whose masks are a suffix, see :func:`dlm.training.objective.mask_responses`.
        dtype: autocast dtype, ``float32`` or ``bfloat16``.
        compile: run the body through torch.compile.
        workers: processes that make batches ahead, see :class:`dlm.training.loader.Loader`.
    """

    matrix_rate: float = 0.006
    other_rate: float = 0.0008
    ema: float = 0.997
    suffix_share: float = 0.15
    dtype: str = "float32"
    compile: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dtype not in ("float32", "bfloat16"):
            raise SettingsError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")


class Trainer(Loop):
    """Trains a LLaDA-layout model; ``judge`` maps a model with averaged weights to figures for the log."""

    def __init__(
        self,
        config: LLaDAConfig,
        recipe: Recipe,
        data: Mixture,
        folder: Path,
        judge: Callable[[LanguageModel], dict[str, float]] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.recipe, self.data, self.judge, self.folder = recipe, data, judge, folder
        torch.manual_seed(data.seed)
        self.model = LLaDAModelLM(config).to(device or torch.device("cpu"))  # type: ignore[arg-type]
        self.hidden = torch.compile(self.model.hidden, dynamic=False) if recipe.compile else self.model.hidden
        weights = dict(self.model.named_parameters())
        super().__init__(folder / "checkpoint.safetensors", recipe, weights, _optimizers(weights, recipe), recipe.ema)
        self.loader = Loader(data, self.rank, recipe.workers)

    def loss(self, share: float) -> Tensor:
        """The any-order bound on a batch with freshly masked answers."""
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
        for family, value in zip(batch.families, rows.tolist(), strict=True):
            self.note(**{family: value})
        self.progress.tokens += batch.tokens.numel() * self.world
        return loss

    def line(self) -> dict[str, Any]:
        """Losses by family, and the rate."""
        p = self.progress
        return {"tokens": p.tokens, "tokens_per_second": round(p.tokens / max(p.seconds, 1e-9)), "loss": super().line()}

    def evaluate(self) -> dict[str, Any]:
        """What ``judge`` says of the averaged weights."""
        return {} if self.judge is None else {"accuracy": self.judge(self.language_model())}

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


def _optimizers(weights: Mapping[str, Tensor], recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in weights.items():
        (matrices if ".blocks." in name and p.dim() == 2 else others).append(p)
    return [
        Muon(matrices, lr=recipe.matrix_rate),
        torch.optim.AdamW(others, lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
