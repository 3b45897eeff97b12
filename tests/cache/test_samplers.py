"""Every sampler with every cache: exact on one layer, or refused with a reason."""

from __future__ import annotations

from typing import Any

import pytest

import cache
import dlm
import samplers
from dlm.errors import SettingsError
from tests.cache.runs import FAMILIES, PROMPTS, history
from tests.cache.test_rows import EXACT
from tests.test_decoder import FAMILIES as ONLY
from tests.test_decoder import PRESETS, preset

LEAVING = {"prophet", "sched"}
PROBING = {"lopa", "punt", "info_gain", "core", "soar", "unlock"}
SOME = {name: EXACT[name] for name in ("dual", "dkv_decode", "dllm", "window", "adaptive", "sparse")}


def pairs(name: str) -> dict[str, Any]:
    """The caches a sampler goes with."""
    refused = {
        **{probing: {"dllm", "sparse"} for probing in PROBING},
        "verified": {"dllm", "sparse", "adaptive", "entropy"},
        "dawn": set(EXACT),
        "klass": {"dllm"},
        "ccd": {"dllm"},
        "ccd_ds": {"dllm"},
        "wino": {"dllm", "sparse"},
        **{moving: {"dual", "window", "sparse"} for moving in ("dcd", "d3llm")},
    }
    return {c: policy for c, policy in SOME.items() if c not in refused.get(name, set())}


@pytest.mark.covering
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PRESETS)
def test_one_layer_is_exact_with_every_sampler(name: str, family: str) -> None:
    if family not in ONLY.get(name, FAMILIES):
        family = "llada"
    model = FAMILIES[family](layers=1)
    sampler = preset(name, **({"steps": 6} if name == "entropy" else {}))
    exact = history(model, None, sampler, prompts=PROMPTS, new=12, batch_size=2)
    for label, policy in SOME.items():
        if label not in pairs(name):
            with pytest.raises(SettingsError, match="does not go with"):
                history(model, policy, sampler)
            continue
        cached = history(model, policy, sampler, prompts=PROMPTS, new=12, batch_size=2)
        assert all(model.description.mask_id not in tokens for tokens in cached.tokens)
        # A position without a fed row at the step before has no divergence yet, so KLASS may go its own way; an early
        # exit needs a forward that shows every open position.
        # A row that is recomputed whole inside a block has no branches at that step.
        fewer_branches = name == "verified" or (name in PROBING and label in ("dkv_decode", "adaptive"))
        if name not in LEAVING | {"klass"} and not fewer_branches:
            assert cached.differs_at(exact, 1e-9) is None, label


def test_an_early_exit_leaves_only_from_a_forward_that_saw_everything() -> None:
    """Prophet fires at once; with the dual cache it can leave at the first step of a block only."""
    model, sampler = FAMILIES["llada"](), samplers.prophet(early=1e-9, mid=1e-9, late=1e-9, blocks=samplers.Fixed(8))
    assert history(model, None, sampler).counts[0].forwards == 1
    assert history(model, cache.dual(), sampler).counts[0].forwards == 1
    slow = samplers.prophet(early=1e9, mid=1e-9, late=1e-9, blocks=samplers.Fixed(8))
    exact = history(model, None, slow).counts[0].forwards
    assert exact % 8 != 1, "choose settings that leave inside a block"
    cached = history(model, cache.dual(), slow).counts[0].forwards
    assert cached > exact
    assert cached % 8 == 1
    assert history(model, cache.dkv_decode(), slow).counts[0].forwards == exact


def test_a_local_step_commits_nothing_but_its_candidates() -> None:
    model = FAMILIES["llada"]()
    run = history(model, cache.recap(local_steps=3, positions=2), samplers.threshold(1e-6, blocks=samplers.Fixed(8)))
    # Everything is above the threshold, and no step between full ones may commit more than its two candidates.
    assert run.counts[0].forwards == 3
    run = history(model, cache.recap(local_steps=3, positions=2))
    assert [len(step.proposals) for step in run.steps[0][:5]] == [8, 2, 2, 2, 4]


def test_caches_and_the_packaged_model() -> None:
    """A trained model answers the same with a cache that is nearly exact."""
    model = dlm.load("tiny")
    prompts = ['Reverse the list: ["Anna", "Bob", "Cleo"]', "47+85="]
    plain = dlm.generate(model, prompts, sampler=samplers.topk(), max_new_tokens=32)
    for policy in (cache.dual(), cache.dkv_decode(), cache.vicinity(4, 4)):
        cached = dlm.generate(model, prompts, sampler=samplers.topk(), cache=policy, max_new_tokens=32)
        assert [a.text for a in cached] == [a.text for a in plain]
        assert sum(a.counts.token_forwards for a in cached) < sum(a.counts.token_forwards for a in plain)
