"""Autoregressive models of transformers: what verifies the drafts of a masked diffusion model (DEER)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dlm.errors import CheckpointError, DlmError, SettingsError
from dlm.models.backbone import ModelDescription
from dlm.models.checkpoint import cut, read_object, refuse_adapters, resolve
from dlm.models.language_model import LanguageModel
from dlm.models.loading import load_tokenizer, pick_device, pick_dtype, undisturbed
from dlm.models.quiet import quiet_imports

with quiet_imports():
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Fields of a config.json on which transformers would fetch code, or unpack weights.
_ACTED_ON = ("auto_map", "attn_implementation", "_attn_implementation", "experts_implementation")
_NO_MASK = -1
_ENDLESS = 1 << 30


class CausalDescription(ModelDescription):
    """The same facts of an autoregressive model: no id is its mask, and it may have no end."""

    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True, eq=False, repr=False)
class CausalModel(LanguageModel):
    """An autoregressive model with its tokenizer: ``backbone`` is a causal LM of transformers."""

    @cached_property
    def description(self) -> ModelDescription:
        """Width, ends (those that transformers' own ``generate`` stops at) and context."""
        network: Any = self.backbone
        ends = getattr(network.generation_config, "eos_token_id", None)
        ends = network.config.eos_token_id if ends is None else ends
        if ends is None and self.tokenizer is not None:
            ends = self.tokenizer.eos_token_id
        width = network.get_output_embeddings().weight.shape[0]
        context = getattr(network.config.get_text_config(), "max_position_embeddings", None) or _ENDLESS
        ids = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
        return CausalDescription(_NO_MASK, ids, 1, width, width, context)

    @cached_property
    def takes(self) -> frozenset[str]:
        """What a forward of the network can be given."""
        return frozenset(inspect.signature(self.backbone.forward).parameters)  # type: ignore[attr-defined]

    @cached_property
    def causal(self) -> bool:
        """Whether no token sees a later one, and every one leaves a key and a value that could be taken back."""
        pair, cache = torch.tensor([[0, 1], [0, 2]], device=self.device), DynamicCache()
        try:
            with torch.inference_mode():
                seen: Any = self.backbone(pair, past_key_values=cache, use_cache=True)  # type: ignore[operator]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):  # made for a memory of another kind
            return False
        logits = seen.logits[:, 0].float()
        kept = [getattr(layer, "keys", None) for layer in cache.layers]
        near = 1e-5 if self.dtype.itemsize > 2 else 1e-2
        alike = bool((logits[0] - logits[1]).abs().max() <= near * logits.abs().max())
        return alike and bool(kept) and all(isinstance(x, torch.Tensor) and x.shape[2:3] == (2,) for x in kept)

    def __post_init__(self) -> None:
        if "position_ids" not in self.takes:
            raise SettingsError(f"{self.name}: its forward is given no positions, so that rows could not be batched")


def load_causal(
    name_or_path: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> CausalModel:
    """Load an autoregressive model of a family that transformers knows: safetensors only, never remote code.

    Args:
        name_or_path: a folder or a Hugging Face id.
        device, dtype: as in :func:`dlm.load`.

    Raises:
        SettingsError: unknown name, device or dtype, or no causal language model.
        CheckpointError: files are absent, damaged, or do not fit the configuration.
        OutOfMemoryError: the weights do not fit on the device.
    """
    target = pick_device(device)
    folder, precision = resolve(name_or_path), pick_dtype(dtype, target)
    refuse_adapters(folder)
    settings = read_object(folder / "config.json")
    kind, tokenizer = str(settings.get("model_type")), load_tokenizer(folder)
    family: Any = CONFIG_MAPPING[kind] if kind in CONFIG_MAPPING else None  # noqa: SIM401 (it has no get)
    if family is None or family not in AutoModelForCausalLM._model_mapping:
        raise SettingsError(f"{folder} is no autoregressive model that transformers knows (model_type {kind!r})")
    if "quantization_config" in settings:
        raise SettingsError(f"the weights in {folder} are quantised: a verifier needs plain ones")
    config = family.from_dict({key: value for key, value in settings.items() if key not in _ACTED_ON})
    how: dict[str, Any] = {"config": config, "dtype": precision, "device_map": {"": target}, "local_files_only": True}
    how |= {"use_safetensors": True, "trust_remote_code": False, "output_loading_info": True}
    try:
        with undisturbed(folder, precision):
            loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **how)
    except DlmError:
        raise
    except Exception as error:  # whatever the libraries below raise about files they were not made for
        raise CheckpointError(f"the weights in {folder} could not be loaded: {error}") from error
    network, told = loaded
    if missing := sorted(map(str, told["missing_keys"])):
        raise CheckpointError(f"the weights in {folder} do not fit its config.json; missing: {cut(missing)}")
    return CausalModel(network.eval().requires_grad_(False), tokenizer, str(name_or_path))
