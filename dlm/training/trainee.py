"""A loaded model whose weights, or a LoRA adapter beside them, are trained; and how it is kept."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlm.errors import SettingsError
from dlm.models.language_model import LanguageModel
from dlm.models.quiet import quiet_imports


@dataclass(frozen=True)
class Trainee:
    """What is trained of a model.

    Attributes:
        model: decodes with the weights as they are.
        weights: those that are trained, by name.
        placed: peft's model around the backbone; None: all weights are trained.
        before: the weights as they were, where a reference is asked for and no adapter can be switched off.
    """

    model: LanguageModel
    weights: dict[str, Tensor]
    placed: Any = None
    before: LanguageModel | None = None

    @classmethod
    def of(cls, model: LanguageModel, rank: int | None = None, alpha: float | None = None, seed: int = 0) -> Trainee:
        """Train a LoRA of this ``rank`` in every matrix of the layers, or with None all weights.

        Args:
            model: from ``dlm.load(..., trainable=True)``.
            rank: of the LoRA.
            alpha: its scale is alpha / rank; None: 1.
            seed: of the LoRA's first weights.

        Raises:
            SettingsError: a model without trainable weights; peft is not installed.
        """
        backbone: Any = model.backbone
        if not any(w.requires_grad for w in backbone.parameters()):
            raise SettingsError(f"no weight of {model.name} wants a gradient: load it with trainable=True")
        if rank is not None and rank < 1:
            raise SettingsError(f"lora must be a rank of at least 1, or null to train all weights, got {rank}")
        if rank is None:
            return cls(model, dict(backbone.named_parameters()))
        if find_spec("peft") is None:
            raise SettingsError("lora needs peft: pip install 'dlm[adapters]'; or lora=null trains all weights")
        with quiet_imports():
            from peft import LoraConfig, get_peft_model
        head = backbone.get_output_embeddings()
        names = [n for n, m in backbone.named_modules() if isinstance(m, nn.Linear) and m is not head]
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft, about transformers
            torch.manual_seed(seed)
            config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=names)  # type: ignore[arg-type]
            placed = get_peft_model(backbone, config)
        placed.peft_config["default"].base_model_name_or_path = model.name
        return cls(model, {n: w for n, w in placed.named_parameters() if w.requires_grad}, placed)

    def with_reference(self) -> Trainee:
        """Able to say what the weights said before the training."""
        if self.placed is not None or self.before is not None:
            return self
        frozen: Any = copy.deepcopy(self.model.backbone)
        return replace(self, before=replace(self.model, backbone=frozen.requires_grad_(False)))

    @contextmanager
    def reference(self) -> Iterator[LanguageModel]:
        """The model as it was before the training."""
        if self.before is not None:
            yield self.before
        elif self.placed is not None:
            with self.placed.disable_adapter():
                yield self.model
        else:
            raise SettingsError("this training keeps no reference")

    def keep(self, folder: Path) -> None:
        """Write the adapter, or the whole model, as a folder that :func:`dlm.load` takes."""
        from transformers.utils.logging import disable_progress_bar

        folder.mkdir(parents=True, exist_ok=True)
        disable_progress_bar()  # of the shards; there is one of the training
        if self.placed is not None:
            self.placed.save_pretrained(folder)
            return
        backbone: Any = self.model.backbone
        backbone.save_pretrained(folder)
        if self.model.tokenizer is not None:
            self.model.tokenizer.save_pretrained(folder)
