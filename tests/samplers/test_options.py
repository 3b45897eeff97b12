"""What every preset takes: blocks that were asked for are the blocks there are."""

from __future__ import annotations

from typing import Any

import pytest

import samplers
from dlm.errors import SettingsError

# Those that fit no other blocks.
WHOLE_ONLY = {
    "ass", "eoser_ass", "dimple", "ccd", "ccd_ds", "dream_origin", "dream_maskgit_plus", "dream_margin",
    "dream_entropy", "profiled",
}  # fmt: skip
WHOLE = {"pc", "saber", "slowfast", "eoser", "core"} | WHOLE_ONLY

# Those that make their own.
OWN = {
    "adablock": samplers.AdaptiveBlocks(), "dcd": samplers.SlidingBlocks(widest=128, usual=16),
    "d3llm": samplers.PipelinedBlocks(),
}  # fmt: skip


@pytest.mark.parametrize("blocks", [samplers.Fixed(4), samplers.Fixed(), samplers.Whole()], ids=str)
@pytest.mark.parametrize("name", samplers.PRESETS)
def test_blocks_that_were_asked_for_are_never_ignored(name: str, blocks: Any) -> None:
    make = getattr(samplers, name)
    if (name in WHOLE_ONLY and blocks != samplers.Whole()) or (name in OWN and blocks != samplers.Fixed(4)):
        with pytest.raises(SettingsError, match="blocks"):
            make(blocks=blocks)
    elif name in OWN:
        assert make(blocks=blocks).blocks == make(length=4).blocks != make().blocks  # fixed blocks set the length
    else:
        assert make(blocks=blocks).blocks == blocks


@pytest.mark.parametrize("name", samplers.PRESETS)
def test_a_preset_has_blocks_of_its_own_where_nobody_asked_for_any(name: str) -> None:
    make = getattr(samplers, name)
    assert make(blocks=None) == make()
    special = {"wino": samplers.Fixed(usual=128)} | OWN
    special |= dict.fromkeys(("sdar", "llada2", "fast_dllm_v2"), samplers.Aligned())
    assert make().blocks == special.get(name, samplers.Whole() if name in WHOLE else samplers.Fixed())
