"""Checkpoints that were quantised before: read by transformers' own quantisers, where their packages are installed.

What a checkpoint says of its quantisation is taken as data: the fields that its method knows, nothing that fetches or
runs code (kernels of the hub, calibration data).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlm.errors import CheckpointError, SettingsError
from dlm.models.checkpoint import read_object
from dlm.models.masked_lm import MaskedLM
from dlm.models.parts import RMSNorm

# Method -> what must be installed: the modules, and how they are had.
_PACKAGES: dict[str, tuple[tuple[str, ...], str]] = {
    "bitsandbytes": (("bitsandbytes",), "pip install bitsandbytes"),
    "gptq": (("optimum", "gptqmodel"), "pip install optimum gptqmodel"),
    "awq": (("gptqmodel",), "pip install gptqmodel"),
    "compressed-tensors": (("compressed_tensors",), "pip install compressed-tensors"),
    "fp8": ((), ""),
}
_FIELDS: dict[str, tuple[str, ...]] = {
    "bitsandbytes": (
        "load_in_8bit", "load_in_4bit", "llm_int8_threshold", "llm_int8_skip_modules", "llm_int8_has_fp16_weight",
        "bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_quant_storage",
    ),
    "gptq": (
        "bits", "group_size", "desc_act", "sym", "true_sequential", "damp_percent", "checkpoint_format", "format",
        "block_name_to_quantize", "modules_in_block_to_quantize", "static_groups", "lm_head",
    ),
    "awq": ("bits", "group_size", "zero_point", "version", "format", "modules_to_not_convert"),
    "fp8": ("activation_scheme", "weight_block_size", "modules_to_not_convert", "fmt", "scale_fmt"),
}  # fmt: skip
# These become plain weights: products of theirs are kernels that transformers fetches from the hub.
_UNPACKED = ("fp8", "compressed-tensors")
# What a folder's files are called when they are quantised; config.json has a field of its own for it.
_BESIDE = ("quantize_config.json", "quant_config.json", "quantization_config.json")


def quantisation_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the weights in a folder, whose config.json is ``settings``, are quantised, for transformers to read; None:
    they are not.

    Raises:
        CheckpointError: in a way that is not read.
        SettingsError: the package that reads it is not installed.
    """
    found, where = _described(folder, settings)
    if found is None:
        return None
    method = found.get("quant_method") or found.get("format")
    if found.keys() & {"load_in_8bit", "load_in_4bit"}:
        method = "bitsandbytes"
    kind = f"quantised with {method}" if isinstance(method, str) else "quantised"
    if not isinstance(method, str) or method not in _PACKAGES:
        raise CheckpointError(
            f"the weights in {folder} are {kind} ({where}), which is not read: load the unquantised model they were"
            " made from"
        )
    modules, advice = _PACKAGES[method]
    if absent := [module for module in modules if find_spec(module) is None]:
        raise SettingsError(
            f"the weights in {folder} are {kind} ({where}), which {' and '.join(absent)} reads: {advice}, or load the"
            " unquantised model"
        )
    own = {key: value for key, value in found.items() if method not in _FIELDS or key in _FIELDS[method]}
    return {**own, "quant_method": method, **({"dequantize": True} if method in _UNPACKED else {})}


def _described(folder: Path, settings: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """What is said of the quantisation, and where."""
    for field in ("quantization_config", "compression_config", "quantization"):
        if value := settings.get(field):
            where = f"{field} in {folder / 'config.json'}"
            return (value if isinstance(value, Mapping) else {}), where
    beside = next((folder / name for name in _BESIDE if (folder / name).is_file()), None)
    return (None, "") if beside is None else (read_object(beside), str(beside))


def refuse_together(method: str | None, quantize: str | None, adapted: bool, dtype: torch.dtype) -> None:
    """Raise SettingsError for what cannot be done with weights that are quantised with ``method`` already."""
    if method is None:
        return
    if quantize is not None:
        raise SettingsError(f"the weights are quantised with {method} already: leave quantize out")
    if adapted:
        raise SettingsError(f"weights quantised with {method} take no adapter: load the unquantised model")
    if dtype == torch.float64:
        raise SettingsError(f"weights quantised with {method} do not compute in float64: leave dtype out")


def settle(model: MaskedLM, method: str | None, dtype: torch.dtype | None) -> None:
    """Make a model whose weights were read packed say what they are, and put the others in ``dtype`` (None: as they are
    stored, which their kernels were made for)."""
    if method is None:
        return
    for module in model.modules():
        if dtype is not None and type(module) in (nn.Embedding, nn.Linear, RMSNorm):
            module.to(dtype)
    # It tells at every product that the inputs are cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    model.quantised = None if method in _UNPACKED else method
    with torch.device("meta"):  # packed weights are of other shapes, or no parameters
        model.weight_count = sum(weight.numel() for weight in type(model)(model.config).parameters())
