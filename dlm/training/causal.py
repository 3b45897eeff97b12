"""A small autoregressive model from tasks: what verifies the packaged model's drafts (docs/drafting.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from dlm.models.causal import CausalModel
from dlm.training.data import Mixture
from dlm.training.loader import Loader
from dlm.training.loop import Loop, Schedule, decisive
from dlm.training.muon import Muon


@dataclass(frozen=True)
class CausalTraining(Schedule):
    """A schedule, and the rates.

    Attributes:
        matrix_rate, other_rate: learning rates of Muon (matrices) and AdamW (embeddings, head, norms).
        ema: decay of the weight average, which is what is kept.
    """

    matrix_rate: float = 0.01
    other_rate: float = 0.003
    ema: float = 0.99


class CausalTrainer(Loop):
    """Trains a Llama to go on with the mixture's prompts; ``judge`` maps the model as it is to figures for the log."""

    def __init__(
        self,
        config: LlamaConfig,
        how: CausalTraining,
        data: Mixture,
        checkpoint: Path | None,
        judge: Callable[[CausalModel], dict[str, float]] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.data, self.judge = data, judge
        torch.manual_seed(data.seed)
        self.model = LlamaForCausalLM(config).to(device or torch.device("cpu"))  # type: ignore[arg-type]
        weights = dict(self.model.named_parameters())
        matrices = {name for name, weight in weights.items() if ".layers." in name and weight.dim() == 2}
        optimizers = [
            Muon([weights[name] for name in weights if name in matrices], lr=how.matrix_rate),
            torch.optim.AdamW([weights[name] for name in weights if name not in matrices], lr=how.other_rate),
        ]
        told = {"settings": decisive(how), "data": [repr(data.curriculum), data.tokens_per_batch, data.seed]}
        super().__init__(checkpoint, how, weights, optimizers, how.ema, told)
        self.loader = Loader(data, self.rank)

    def loss(self, share: float) -> Tensor:
        """Mean cross-entropy of the answers' tokens, one end token included."""
        batch = self.loader.batch(self.progress.step, share).to(self.device)
        start = batch.response.long().argmax(dim=1, keepdim=True)
        columns = torch.arange(batch.tokens.shape[1], device=self.device)
        wanted = batch.response & (columns < start + batch.answer[:, None])
        # The row before a token scores it.
        logits = self.model(batch.tokens[:, :-1]).logits[wanted[:, 1:]]
        loss = cross_entropy(logits.float(), batch.tokens[wanted])
        self.note(loss=float(loss.detach()))
        self.progress.tokens += batch.tokens.numel() * self.world
        return loss

    def evaluate(self) -> dict[str, Any]:
        """What ``judge`` says of the averaged weights."""
        return {} if self.judge is None else {"accuracy": self.judge(self.causal_model())}

    def causal_model(self) -> CausalModel:
        """The averaged weights as a model to decode with."""
        network = LlamaForCausalLM(self.model.config).to(self.device)  # type: ignore[arg-type]
        network.load_state_dict(self.average, strict=True)
        return CausalModel(network.eval().requires_grad_(False), self.data.tokenizer, "training")
