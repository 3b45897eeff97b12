"""Weights in fewer bits: the matrices of the blocks, quantised by torchao while the model is loaded.

Weight-only: what a product reads is 8 or 4 bits wide and multiplied in the model's own number format. Embedding, norms
and head stay as they are (a head may be the embedding, and its logits decide which token is committed). Nothing is
written: a model is quantised anew at every load, so that no copy can be old or half there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dlm.errors import SettingsError
from dlm.models.architecture import Architecture
from dlm.models.masked_lm import MaskedLM
from dlm.models.quiet import quiet_imports

Quantisation = Literal["int8", "int4", "fp8"]
_GROUPS = (128, 64, 32)  # weights of a row that share a scale in int4; the largest that divides the row is taken
_FLOATS = {"int8": (torch.float32, torch.bfloat16, torch.float16), "fp8": (torch.float32, torch.bfloat16)}
_COLUMNS = 16  # torch's int4 product on a CPU takes them by so many
_FP8_FROM = (8, 9)  # compute capability of Nvidia's first cards with float8


def refuse_where_impossible(kind: str, device: torch.device, dtype: torch.dtype, spread: bool = False) -> None:
    """Raise SettingsError, before anything is loaded, where ``kind`` cannot be: the package, a device without the
    kernels, a number format that they do not take, a model that is ``spread`` over devices."""
    if spread:
        raise SettingsError("quantize puts the model on one device: give device in place of device_map")
    if kind not in get_args(Quantisation):
        raise SettingsError(f"unknown quantisation {kind!r}; use int8, int4 or fp8")
    if find_spec("torchao") is None:
        raise SettingsError(f"quantize={kind} needs torchao: pip install 'dlm[quantize]'")
    if kind == "int4" and device.type not in ("cpu", "cuda"):
        raise SettingsError(f"quantize=int4 runs on cpu and cuda, not on {device.type}: use quantize=int8")
    if kind == "fp8" and not _has_float8(device):
        raise SettingsError(f"{device} has no float8 (a card of compute capability 8.9 or more has): use quantize=int8")
    taken = _FLOATS.get(kind, (torch.bfloat16,) if device.type == "cuda" else _FLOATS["int8"])
    if dtype not in taken:
        names = " or ".join(str(known).removeprefix("torch.") for known in taken)
        raise SettingsError(f"quantize={kind} on {device.type} computes in {names}, not {dtype}: set dtype")


def refuse_odd_shapes(kind: str | None, arch: Architecture, device: torch.device) -> None:
    """Raise SettingsError for an architecture whose matrices ``kind`` cannot divide, or that has experts."""
    if kind is not None and arch.experts is not None:
        raise SettingsError(f"quantize={kind}: the experts of a model are not quantised yet: leave quantize out")
    if kind != "int4":
        return
    kv_width = arch.kv_heads * arch.head_width
    odd = [width for width in (arch.width, arch.mlp_width) if _group(width) is None]
    if device.type == "cpu":
        odd += [width for width in (arch.width, kv_width, arch.mlp_width) if width % _COLUMNS]
    if odd:
        raise SettingsError(f"int4 takes widths in multiples of {_GROUPS[-1]}, not {odd[0]}: use quantize=int8")


@torch.no_grad()
def quantise(
    model: MaskedLM, kind: Quantisation, device: torch.device, ready: Callable[[nn.Module], object] | None = None
) -> None:
    """Quantise the blocks of a model in place, each when it is on ``device``, where the model is afterwards.

    So a card holds no more than the quantised blocks and one that is not yet: an 8B model goes into 12 GB.

    Args:
        model: where it was loaded.
        kind: int8 (one scale per row of a matrix), int4 (one per 128 weights of a row), fp8 (one per row).
        device: where it goes.
        ready: called with a block on the device, before it is quantised.
    """
    with quiet_imports():
        from torchao.quantization import quantize_
    for block in model.get_submodule(model.names.blocks).children():
        block.to(device)
        if ready is not None:
            ready(block)
        for group in _GROUPS if kind == "int4" else (None,):
            quantize_(block, _recipe(kind, group, device), lambda part, _, group=group: _takes(part, group))
        _let_go(block)
    model.to(device)  # type: ignore[arg-type]
    _let_go(model)
    model.quantised = kind


def _let_go(module: nn.Module) -> None:
    """Copy what is not quantised: one norm that is mapped from a file would keep all of the file in memory."""
    for weight in module.parameters():
        if weight.device.type == "cpu" and stored_tensors(weight)[0] is weight:
            weight.data = weight.data.clone()


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the distinct parameters of a module, packed ones as they are stored."""
    seen = {id(part): part.nbytes for weight in module.parameters() for part in stored_tensors(weight)}
    return sum(seen.values())


def stored_tensors(weight: Tensor) -> list[Tensor]:
    """The plain tensors that a weight is kept in: itself, or the parts of a quantised one."""
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [part for name in names for part in stored_tensors(getattr(weight, name))]


def _recipe(kind: str, group: int | None, device: torch.device) -> Any:
    """torchao's settings; its own of the compiler, which hold for the whole process, are left out."""
    with quiet_imports():
        from torchao import quantization as ao
    if kind == "int8":
        return ao.Int8WeightOnlyConfig(set_inductor_config=False)
    if kind == "fp8":
        return ao.Float8WeightOnlyConfig(granularity=ao.PerRow(), set_inductor_config=False)
    if device.type == "cuda":
        packing: Any = "tile_packed_to_4d"
        return ao.Int4WeightOnlyConfig(group_size=group, int4_packing_format=packing, set_inductor_config=False)
    try:  # a prototype of torchao's
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    except ImportError as error:
        raise SettingsError("this torchao has no int4 for the CPU: use quantize=int8, or another torchao") from error
    return PrototypeInt4WeightOnlyConfig(group_size=group, set_inductor_config=False)


def _takes(part: nn.Module, group: int | None) -> bool:
    return isinstance(part, nn.Linear) and (group is None or _group(part.in_features) == group)


def _group(width: int) -> int | None:
    return next((size for size in _GROUPS if width % size == 0), None)


def _has_float8(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= _FP8_FROM
