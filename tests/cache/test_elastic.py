"""Elastic-Cache against recorded runs of its authors' loop and attention (tests/data/elastic), and its two measures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from cache.elastic import Following
from scripts.goldens.listen import Listening
from tests.cache.runs import PROMPTS, history
from tests.doubles import random_llada

RECORDED = json.loads((Path(__file__).parents[1] / "data/elastic/runs.json").read_text())["runs"]
LAYERS, NEW = 4, 32


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_recorded_runs(every: int) -> None:
    """Tokens, forwards, the positions fed at each of them, and from which layer on each was the whole row."""
    model = random_llada(layers=LAYERS, kv_heads=4)
    with torch.no_grad():
        model.backbone.get_output_embeddings().weight[model.description.mask_id].zero_()
    for run in RECORDED[::every]:
        listening = Listening(cache.elastic(run["window"], run["gamma"], run["track"], "reference"))
        if run["threshold"] is None:
            sampler = samplers.topk(tokens_per_step=run["tokens_per_step"], blocks=samplers.Whole())
        else:
            sampler = samplers.threshold(run["threshold"], blocks=samplers.Whole(), precision="float64")
        (answer,) = dlm.generate(model, [run["prompt"]], sampler=sampler, cache=listening, max_new_tokens=NEW)
        assert answer.tokens == run["tokens"]
        assert answer.counts.forwards == run["forwards"]
        assert [sorted(call.fed) for call in listening.heard[0]] == run["fed"]
        whole, calls = len(run["prompt"]) + NEW, zip(run["fed"], run["from"], strict=True)
        equivalents = [round((len(fed) * first + whole * (LAYERS - first)) / LAYERS) for fed, first in calls]
        assert answer.counts.token_forwards == sum(equivalents)


@pytest.mark.parametrize(
    ("compat", "same"), [("clean", 1 / 1.5**0.5), ("reference", (0.75 / 0.625**0.5 + 0.25 / 0.125**0.5) / 2)]
)
def test_two_measures_of_how_far_attention_has_turned(compat: Any, same: float) -> None:
    """Two heads, two keys, one tracked position; the first head turns to the first key. Over heads and keys that is
    (0.5, 0.5, 0.5, 0.5) and (1, 0, 0.5, 0.5); over heads (0.5, 0.5) and (1, 0.5), then (0.5, 0.5) and (0, 0.5)."""
    before = torch.tensor([[[[0.5, 0.5]], [[0.5, 0.5]]]])
    now = torch.tensor([[[[1.0, 0.0]], [[0.5, 0.5]]]])
    one = torch.ones(1, 1, dtype=torch.bool)

    def turned(gamma: float) -> bool:
        policy = cache.elastic(gamma=gamma, compat=compat)
        call = Following(policy, torch.tensor([[0]]), None, torch.tensor([[0]]), one, ~one, one)
        call.compare(before, now, 0)
        return call.layers == [1]

    assert not turned(same - 1e-6)
    assert turned(same + 1e-6)


def test_gamma_is_how_often_layers_are_recomputed() -> None:
    model, sampler = random_llada(layers=3), samplers.topk(blocks=samplers.Whole())
    never, often, ever = (
        [row.token_forwards for row in history(model, cache.elastic(4, gamma), sampler, prompts=PROMPTS).counts]
        for gamma in (0.0, 0.95, 1.0)
    )
    assert all(a < b < c for a, b, c in zip(never, often, ever, strict=True))
