"""Counter-based noise: one stream per row, addressed by (row key, step, purpose, position).

A draw depends on nothing but its address, so a row sees the same noise in any batch, at any slot, with any
neighbours and any padding (law 1). The generator is the SplitMix64 finaliser (Steele, Lea & Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014) chained over the address words.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
    stream = _mix(_mix((key + _GOLDEN).add_(step, alpha=_GOLDEN)) + _signed(_GOLDEN_WORD * int(purpose)))
    word = _mix((stream + _GOLDEN)[:, None].add(positions, alpha=_GOLDEN))
    # 52 bits and a half: exact in float64, and never 0 or 1.
    return _shift_right(word, 12).double().add_(0.5).mul_(2.0**-52)


def gumbel(uniforms: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Standard Gumbel noise from uniforms."""
    return -torch.log(-torch.log(uniforms))
