"""Counter-based noise: one stream per row, addressed by (row key, step, purpose, position).

A draw depends on nothing but its address, so a row sees the same noise in any batch, at any slot, with any
neighbours and any padding (law 1). The generator is the SplitMix64 finaliser (Steele, Lea & Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014) chained over the address words.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.models.fused import TRITON


def _signed(word: int) -> int:
    """A word modulo 2^64 as torch stores it (two's complement)."""
    word %= 1 << 64
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN_WORD = 0x9E3779B97F4A7C15
_GOLDEN = _signed(_GOLDEN_WORD)
_MULTIPLIER_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLIER_2 = _signed(0x94D049BB133111EB)


class Purpose(enum.IntEnum):
    """What a draw is for; different purposes at one address are independent."""

    TOKEN = 1
    SCORE = 2
    BERNOULLI = 3
    WITHOUT_REPLACEMENT = 4
    CLASS = 5


def row_key(seed: int, tokens: Sequence[int], repeat: int = 0) -> int:
    """Key of a row's stream: from the seed, the row's own content and, for equal rows, which copy it is."""
    digest = hashlib.sha256(repr((int(seed), [int(t) for t in tokens], int(repeat))).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def _shift_right(word: Int[Tensor, "..."], bits: int) -> Int[Tensor, "..."]:
    """Logical right shift (torch shifts signed integers arithmetically)."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def _mix(word: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    word = (word ^ _shift_right(word, 30)) * _MULTIPLIER_1
    word = (word ^ _shift_right(word, 27)) * _MULTIPLIER_2
    return word ^ _shift_right(word, 31)


def uniform(
    key: Int[Tensor, " B"], step: Int[Tensor, " B"], purpose: Purpose, positions: Int[Tensor, "B N"]
) -> Float[Tensor, "B N"]:
    """Independent uniforms in the open interval (0, 1), float64, one per position."""
    draw = _uniform if key.device.type == "cpu" else torch.ops.dlm.uniform
    drawn: Tensor = draw(key, step, int(purpose), positions)
    return drawn


def _uniform(key: Tensor, step: Tensor, purpose: int, positions: Tensor) -> Tensor:
    stream = _mix(_mix(key + _GOLDEN * (step + 1)) + _signed(_GOLDEN_WORD * purpose))
    word = _mix(stream[:, None] + _GOLDEN * (positions + 1))
    # 52 bits and a half: exact in float64, and never 0 or 1.
    return (_shift_right(word, 12).double() + 0.5) * 2.0**-52


def _uniform_on_gpu(key: Tensor, step: Tensor, purpose: int, positions: Tensor) -> Tensor:
    if not TRITON:
        return _uniform(key, step, purpose, positions)
    out = torch.empty(positions.shape, dtype=torch.float64, device=key.device)
    (rows, count), size, salt = positions.shape, 128, _signed(_GOLDEN_WORD * purpose)
    with torch.cuda.device(key.device):
        kernel()[(rows, -(-count // size))](
            key.contiguous(), step.contiguous(), positions, out, salt, count, *positions.stride(), size=size
        )
    return out


@cache
def kernel() -> Any:
    """The same formula as a Triton kernel, made when it is first needed."""
    import triton  # type: ignore[import-not-found]
    from triton import language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def drawn(  # type: ignore[no-untyped-def]
        key, step, positions, out, salt, count, per_row, per_place, size: tl.constexpr
    ):
        row = tl.program_id(0)
        lane = tl.program_id(1) * size + tl.arange(0, size)
        inside = lane < count
        golden = tl.full((size,), 0x9E3779B97F4A7C15, tl.uint64)
        place = tl.load(positions + row * per_row + lane * per_place, mask=inside, other=0).to(tl.uint64)
        word = tl.load(key + row).to(tl.uint64) + golden * (tl.load(step + row).to(tl.uint64) + 1)
        for level in tl.static_range(3):
            word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
            word = (word ^ (word >> 27)) * 0x94D049BB133111EB
            word = word ^ (word >> 31)
            if level == 0:
                word += salt.to(tl.uint64)
            elif level == 1:
                word += golden * (place + 1)
        tl.store(out + row * count + lane, ((word >> 12).to(tl.float64) + 0.5) * 2.220446049250313e-16, mask=inside)

    return drawn


_LIBRARY = torch.library.Library("dlm", "FRAGMENT")
_LIBRARY.define("uniform(Tensor key, Tensor step, int purpose, Tensor positions) -> Tensor")
_LIBRARY.impl("uniform", _uniform, "CompositeExplicitAutograd")
_LIBRARY.impl("uniform", _uniform_on_gpu, "CUDA")


def gumbel(uniforms: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Standard Gumbel noise from uniforms."""
    return -torch.log(-torch.log(uniforms))
