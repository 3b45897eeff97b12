"""The decoder of dParallel (arXiv 2509.26488). The paper's speeds are those of a model trained for it; the decoder
itself needs no training."""

from __future__ import annotations

from typing import Any

from dlm.engine.sampler import Sampler
from samplers.presets.options import Options
from samplers.scores.negative_entropy import NegativeEntropy
from samplers.selectors.entropy_threshold import EntropyThreshold


def entropy_threshold(threshold: float = 0.5, *, strict: bool = False, **options: Any) -> Sampler:
    """Commit every position with an entropy of at most ``threshold`` nats (``strict``: below it), and always the least
    uncertain one."""
    shared = Options.parse("entropy_threshold", options)
    selector = EntropyThreshold(threshold, strict)
    return shared.finish(Sampler("entropy_threshold", NegativeEntropy(), selector, shared.block_schedule))
