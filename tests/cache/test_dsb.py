"""The cache of DSB against recorded runs of its authors' loop (tests/data/dsb)."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import cache
import dlm
import samplers
from scripts.goldens.listen import Listening
from tests.doubles import random_llada

RECORDED = json.loads((Path(__file__).parents[1] / "data/dsb/runs.json").read_text())["runs"]


def test_recorded_runs() -> None:
    """Tokens and forwards are equal, and so are the positions fed until the window reaches the end of the row: there
    the published one goes on to the last position, ours ends behind the last open one."""
    model = random_llada()
    with torch.no_grad():
        model.backbone.get_output_embeddings().weight[model.description.mask_id].zero_()
    for run in RECORDED:
        policy = cache.dsb(before=run["before"], every_tokens=run["length"])
        blocks, listening = samplers.SlidingBlocks(run["length"]), Listening(policy)
        sampler = samplers.threshold(run["threshold"], blocks=blocks, precision="float64")
        (answer,) = dlm.generate(model, [run["prompt"]], sampler=sampler, cache=listening, max_new_tokens=24)
        calls = listening.heard[0]
        assert answer.tokens == run["tokens"]
        assert answer.counts.forwards == len(calls) == run["forwards"]
        for call, (first, end) in zip(calls, run["fed"], strict=True):
            at_the_end = end == len(run["prompt"]) + 24
            if at_the_end and first > 0:
                break
            assert at_the_end or call.fed == set(range(first, end))
