"""AdaBlock (arXiv 2509.26432): blocks that end where a line or a sentence does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlm.engine.interfaces import Selector
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.adaptive import AdaptiveBlocks
from samplers.blocks.fixed import Fixed
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.threshold import Threshold


def adablock(
    threshold: float = 0.9,
    *,
    length: int | None = None,
    delimiters: Sequence[str | int] = ("\n",),
    delimiter_threshold: float = 0.3,
    window: float = 0.25,
    selector: Selector | None = None,
    **options: Any,
) -> Sampler:
    """Threshold decoding (or ``selector``) in blocks that end on a delimiter the model is sure of.

    ``length``, ``delimiters``, ``delimiter_threshold`` and ``window``: see :class:`samplers.AdaptiveBlocks`, which is
    also what ``blocks=adaptive`` gives any other sampler. Fixed blocks given to this preset set ``length``,
    unless that is given too.

    Raises:
        SettingsError: blocks that are neither adaptive ones nor fixed ones with a length.
    """
    shared = Options.parse("adablock", options)
    if isinstance(shared.blocks, Fixed) and shared.blocks.length is not None:
        length = length or shared.blocks.length
    elif shared.blocks is not None and not isinstance(shared.blocks, AdaptiveBlocks):
        raise SettingsError("sampler 'adablock' makes its own blocks: leave blocks alone, or choose another sampler")
    own = AdaptiveBlocks(length, tuple(delimiters), delimiter_threshold, window)
    blocks = shared.blocks if isinstance(shared.blocks, AdaptiveBlocks) else own
    return shared.finish(Sampler("adablock", Probability(), selector or Threshold(threshold), blocks))
