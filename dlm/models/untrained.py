"""Full-size models with random weights: speed can be measured without a download."""

from __future__ import annotations

import torch
from torch import nn

from dlm.errors import SettingsError
from dlm.models.dream import DreamConfig
from dlm.models.fast_dllm import Fast_dLLM_QwenConfig
from dlm.models.language_model import LanguageModel
from dlm.models.llada import LLaDAConfig
from dlm.models.llada_moe import LLaDA2MoeConfig, LLaDAMoEConfig
from dlm.models.loading import FAMILIES, pick_device, pick_dtype
from dlm.models.masked_lm import MaskedLMConfig
from dlm.models.sdar import SDARConfig, SDARMoeConfig

SHAPES: dict[str, type[MaskedLMConfig]] = {
    "llada-8b": LLaDAConfig, "dream-7b": DreamConfig, "sdar-8b": SDARConfig, "sdar-30b-a3b": SDARMoeConfig,
    "fast-dllm-v2-7b": Fast_dLLM_QwenConfig, "llada-moe-7b-a1b": LLaDAMoEConfig, "llada2-mini": LLaDA2MoeConfig,
}  # fmt: skip


def random_model(
    architecture: str | MaskedLMConfig,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
) -> LanguageModel:
    """A model of a given shape with random weights and no tokenizer, made on the device in one pass.

    Args:
        architecture: one of :data:`SHAPES` (``"llada-8b"``, ``"dream-7b"``, ...), or a configuration. One without ids
            gets the last two of its vocabulary: end, then mask.
        device, dtype: as in :func:`dlm.load`.
        seed: of the device's generator; equal seeds give equal weights on one kind of device.
    """
    if isinstance(architecture, str) and architecture not in SHAPES:
        raise SettingsError(f"unknown shape {architecture!r}; use {', '.join(SHAPES)} or a configuration")
    config = SHAPES[architecture]() if isinstance(architecture, str) else architecture
    if config.mask_token_id is None:
        config.mask_token_id = config.vocab_size - 1
    if config.eos_token_id is None:
        config.eos_token_id = config.vocab_size - 2
    target = pick_device(device)
    family = next(family for family in FAMILIES.values() if family.config_class is type(config))
    with torch.device("meta"):
        model = family(config)
    model.to(dtype=pick_dtype(dtype, target))  # type: ignore[call-arg]
    model.to_empty(device=target)
    model.tie_weights()
    _fill(model, torch.Generator(target).manual_seed(seed))
    model.pack()
    name = architecture if isinstance(architecture, str) else f"random {config.model_type}"
    return LanguageModel(model.eval().requires_grad_(False), None, name)


@torch.no_grad()
def _fill(model: nn.Module, generator: torch.Generator) -> None:
    """Norm gains one, biases zero, every other weight normal at its initial scale."""
    for module in model.modules():
        std = getattr(module, "init_std", None)
        for buffer in module.buffers(recurse=False):
            buffer.zero_()
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            elif std is None:
                parameter.fill_(1.0)
            else:
                parameter.normal_(std=std, generator=generator)
