"""What a block does between its matrix products, one kernel each on a GPU: the rotation, and the gate of the MLP.

On an accelerator without Triton the same formulas run as several kernels. The registered operations have no gradient:
training takes the formulas (:func:`fused` says so).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TRITON = find_spec("triton") is not None
_LIBRARY = torch.library.Library("dlm", "DEF")
_LIBRARY.define("rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor")
_LIBRARY.define("gated(Tensor x) -> Tensor")


def fused(x: Tensor) -> bool:
    """Whether ``x`` is worth a kernel of its own: half precision on an accelerator, without gradients; a compiler makes
    its own."""
    return (
        x.device.type != "cpu"
        and x.dtype.itemsize == 2
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = x.float()
    return (wide * cos + wide.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


def _gated(x: Tensor) -> Tensor:
    gate, up = x.float().chunk(2, dim=-1)
    return (torch.nn.functional.silu(gate) * up).to(x.dtype)


def _rotate_on_gpu(
    x: Float[Tensor, "B T N h"], cos: Float[Tensor, "*B T 1 h"], sin: Float[Tensor, "*B T 1 h"]
) -> Float[Tensor, "B T N h"]:
    if not TRITON or x.stride(-1) != 1:
        return _rotate(x, cos, sin)
    with torch.cuda.device(x.device):
        return launch_rotate(x, cos, sin)


def launch_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The kernel over all positions. The tables are read where they lie, a line every so many entries."""
    rows, fed, heads, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    shared, line = cos.dim() == 3, cos.stride(-3)  # shared: one table for all rows
    if cos.stride() != sin.stride() or cos.stride(-1) != 1 or not (shared or cos.stride(0) == fed * line):
        cos, sin, line = cos.contiguous(), sin.contiguous(), width
    kernels()[0][(rows * fed,)](
        x, cos, sin, out, x.stride(0), x.stride(1), x.stride(2), line, fed, heads, width // 2,
        fed if shared else rows * fed, padded_heads=_power(heads), padded_half=_power(width // 2),
    )  # fmt: skip
    return out


def _gated_on_gpu(x: Float[Tensor, "... 2*M"]) -> Float[Tensor, "... M"]:
    if not TRITON or not x.is_contiguous():
        return _gated(x)
    with torch.cuda.device(x.device):
        return launch_gated(x)


def launch_gated(x: Tensor) -> Tensor:
    """The kernel over all rows."""
    width, size = x.shape[-1] // 2, 1024
    out = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    kernels()[1][(out.numel() // width, -(-width // size))](x, out, width, size=size)
    return out


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


@cache
def kernels() -> tuple[Any, Any]:
    """The Triton kernels, made when they are first needed."""
    import triton  # type: ignore[import-not-found]
    from triton import language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def rotate(  # type: ignore[no-untyped-def]
        x, cos, sin, out, per_row, per_place, per_head, line, fed, heads, half, tables,
        padded_heads: tl.constexpr, padded_half: tl.constexpr,
    ):  # fmt: skip
        place = tl.program_id(0)
        head = tl.arange(0, padded_heads)[:, None]
        lane = tl.arange(0, padded_half)[None, :]
        inside = (head < heads) & (lane < half)
        source = x + (place // fed) * per_row + (place % fed) * per_place + head * per_head + lane
        first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
        # Both halves of a table hold the same angles; the sine of the first half is negated.
        table = (place % tables) * line + lane
        c = tl.load(cos + table, mask=lane < half, other=0.0).to(tl.float32)
        s = tl.load(sin + table + half, mask=lane < half, other=0.0).to(tl.float32)
        target = out + place * heads * 2 * half + head * 2 * half + lane
        tl.store(target, first * c - second * s, mask=inside)
        tl.store(target + half, second * c + first * s, mask=inside)

    @triton.jit  # type: ignore[untyped-decorator]
    def gated(x, out, width, size: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0)
        lane = tl.program_id(1) * size + tl.arange(0, size)
        inside = lane < width
        gate = tl.load(x + row * 2 * width + lane, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(x + row * 2 * width + width + lane, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * width + lane, gate * tl.sigmoid(gate) * up, mask=inside)

    return rotate, gated


for _name, _anywhere, _on_gpu in (("rotate", _rotate, _rotate_on_gpu), ("gated", _gated, _gated_on_gpu)):
    _LIBRARY.impl(_name, _anywhere, "CompositeExplicitAutograd")
    _LIBRARY.impl(_name, _on_gpu, "CUDA")
