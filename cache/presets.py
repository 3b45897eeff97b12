"""No cache, and combinations of caches under a name of their own."""

from __future__ import annotations

from cache.entropy import Entropy
from dlm.engine.asked import checked
from dlm.engine.no_cache import NoCache


@checked
def none() -> NoCache:
    """Feed every live position at every step: exact, and what every cache is compared with."""
    return NoCache()


@checked
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
