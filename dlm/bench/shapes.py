"""Model shapes a benchmark runs at, with random weights: speed needs no trained ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dlm.errors import SettingsError
from dlm.models import LanguageModel, LLaDAConfig, load, random_model
from dlm.words import unknown_name

# Standard deviation of a random model's logits: about as sure of a token as a trained one.
LOGIT_SPREAD = 12.0


@dataclass(frozen=True)
class Shape:
    """One model shape."""

    # width, layers, heads, mlp_width, vocab: of a LLaDA-layout model
    width: int
    layers: int
    heads: int
    mlp_width: int
    vocab: int
    note: str  # what the shape stands for

    def config(self) -> LLaDAConfig:
        """The configuration, with the mask and end ids at the end of the vocabulary."""
        return LLaDAConfig(
            d_model=self.width, n_layers=self.layers, n_heads=self.heads, mlp_hidden_size=self.mlp_width,
            vocab_size=self.vocab, embedding_size=self.vocab, max_sequence_length=4096,
            mask_token_id=self.vocab - 1, eos_token_id=self.vocab - 2, pad_token_id=self.vocab - 2,
        )  # fmt: skip


SHAPES: dict[str, Shape] = {
    "body": Shape(512, 8, 8, 1536, 2048, "a body that dominates: what a cache can save on a CPU"),
    "mid": Shape(256, 8, 8, 704, 8192, "a small research model"),
    "wide": Shape(1024, 2, 16, 2816, 126_464, "LLaDA's vocabulary under a body that costs something"),
    "narrow": Shape(64, 2, 4, 192, 126_464, "LLaDA's vocabulary under almost no body"),
}


def build(name: str, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """The model of a shape: ``tiny`` is the packaged one, ``llada-8b`` and ``dream-7b`` are the public shapes, the
    others are in :data:`SHAPES`. Raises SettingsError: an unknown name."""
    if name == "tiny":
        return load("tiny", device=device, dtype=dtype)
    if name in ("llada-8b", "dream-7b"):
        return random_model(name, device=device, dtype=dtype)
    if name not in SHAPES:
        known = ["tiny", *SHAPES, "llada-8b", "dream-7b"]
        raise SettingsError(unknown_name("bench shape", name, known))
    return random_model(SHAPES[name].config(), device=device, dtype=dtype)


def surer(model: LanguageModel) -> LanguageModel:
    """The model with the head of a random one scaled, so that it is about as sure of a token as a trained one: caches
    that refresh after an unsure commit would otherwise refresh at every step."""
    if model.tokenizer is None:
        head = model.backbone.get_output_embeddings().weight  # type: ignore[attr-defined]
        head.mul_(LOGIT_SPREAD / (head.float().std().item() * head.shape[1] ** 0.5))
    return model
