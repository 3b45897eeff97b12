"""No cache, and combinations of caches under a name of their own."""

from __future__ import annotations

from cache.block_causal import BlockCausal, SubBlocks
from cache.entropy import Entropy
from dlm.engine.calls import checked_call
from dlm.engine.no_cache import NoCache


@checked_call
def none() -> NoCache:
    """Feed every live position at every step: exact, and what every cache is compared with."""
    return NoCache()


@checked_call
def block_causal(*, sub_blocks: bool = False) -> BlockCausal:
    """Exact, for models with block-causal attention: finished blocks are computed once (:class:`cache.BlockCausal`).
    ``sub_blocks``: Fast-dLLM v2's cache inside a block, which is cheaper and not exact (:class:`cache.SubBlocks`)."""
    return SubBlocks() if sub_blocks else BlockCausal()


@checked_call
def adaptive(
    *,
    threshold: float | None = 0.3,
    recent: int = 2,
    before: int | None = 16,
    after: int | None = 16,
    every_tokens: int | None = 32,
) -> Entropy:
    """Ours (docs/caches.md): the vicinity of the block and positions committed in the last two steps; a refresh
    after an unsure commit, and after so many committed tokens. Settings: :class:`cache.Entropy`."""
    return Entropy(threshold, recent, before, after, every_tokens)
