"""Laws between samplers: with one setting at its end each becomes another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
import samplers
from tests.doubles import random_llada
from tests.samplers.runs import outcome

MODEL = random_llada()
MASK = MODEL.description.mask_id

Build = Callable[..., dlm.Sampler]


def with_(build: Build, **fixed: Any) -> Build:
    """A preset with some settings, open for the shared options."""
    return lambda **options: build(**fixed, **options)


def wide_in(**options: Any) -> dlm.Sampler:
    """WINO without its second half."""
    return replace(samplers.wino(0.3, 0.0, **options), reviser=None)


def with_credit(**fixed: Any) -> Build:
    """Threshold decoding with credit among its shared options."""
    return lambda **options: samplers.threshold(0.3, transforms=(samplers.Credit(**fixed),), **options)


ONE = with_(samplers.topk)
SURE = with_(samplers.threshold, threshold=0.3)

# name: (sampler at the end of its range, what it then is)
LAWS: dict[str, tuple[Build, Build]] = {
    "threshold above 1": (with_(samplers.threshold, threshold=1.01), ONE),
    "localleap without relaxation": (with_(samplers.localleap, threshold=0.3, relaxed=0.3), SURE),
    "localleap of radius 0": (with_(samplers.localleap, threshold=0.3, relaxed=0.1, radius=0), SURE),
    "hierarchy between equal levels": (with_(samplers.hierarchy, low=0.3 - 1e-12, high=0.3), SURE),
    "hierarchy first of equals": (with_(samplers.hierarchy, low=0.3 - 1e-12, high=0.3, first=True), SURE),
    "hierarchy without doubt": (
        with_(samplers.hierarchy_remask, low=0.2, high=0.4, doubt=0.0),
        with_(samplers.hierarchy, low=0.2, high=0.4),
    ),
    "factor 0": (with_(samplers.factor, factor=0.0), ONE),
    "entropy bound 0": (with_(samplers.eb, gamma=0.0), with_(samplers.entropy)),
    "entropy bound 0 by probability": (with_(samplers.eb, gamma=0.0, ranking="probability"), ONE),
    "entropy threshold 0": (with_(samplers.entropy_threshold, threshold=0.0), with_(samplers.entropy)),
    "credit of no weight": (with_(samplers.credit, threshold=0.3, alpha=0.0), SURE),
    "credit of no weight, dense": (with_credit(alpha=0.0, store="dense"), SURE),
    "end rejection of factor 1": (with_(samplers.eoser, low=1.0, high=1.0), with_(samplers.topk)),
    "prophet that never leaves": (with_(samplers.prophet, early=1e9, mid=1e9, late=1e9), ONE),
    "prophet over a threshold": (
        with_(samplers.prophet, early=1e9, mid=1e9, late=1e9, selector=samplers.Threshold(0.3)),
        SURE,
    ),
    "sched that never leaves": (with_(samplers.sched, first=1e9, last=1e9), ONE),
    "klass of no divergence": (with_(samplers.klass, threshold=0.1, divergence=-1.0), ONE),
    "klass of no divergence, several": (
        with_(samplers.klass, threshold=0.1, divergence=-1.0, tokens_per_step=3),
        with_(samplers.topk, tokens_per_step=3),
    ),
    "wino that never doubts": (with_(samplers.wino, wide=0.3, narrow=0.0), wide_in),
    "pc without position and frequency": (with_(samplers.pc, decay=0.0), ONE),
    "dawn without edges": (with_(samplers.dawn, sure=0.9, induced=0.9, low=0.3, edge=1.0), SURE),
    "a union of one": (
        with_(samplers.credit, alpha=0.0, selector=samplers.Union((samplers.Threshold(0.3),))),
        SURE,
    ),
}


@pytest.mark.parametrize("law", LAWS)
@settings(max_examples=6)
@given(
    prompts=st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6), min_size=1, max_size=3),
    new=st.integers(3, 9),
    block=st.integers(2, 5),
    temperature=st.sampled_from([0.0, 0.7]),
)
def test_laws(law: str, prompts: list[list[int]], new: int, block: int, temperature: float) -> None:
    special, plain = LAWS[law]
    options = {"blocks": samplers.Fixed(min(block, new)), "temperature": temperature, "precision": "float64"}
    runs = [dlm.generate(MODEL, prompts, sampler=build(**options), max_new_tokens=new) for build in (special, plain)]
    assert [outcome(a) for a in runs[0]] == [outcome(b) for b in runs[1]]


@settings(max_examples=8)
@given(
    prompts=st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6), min_size=1, max_size=3),
    new=st.integers(4, 10),
    length=st.integers(1, 4),
    window=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_delimiters_that_never_count_leave_fixed_blocks(
    prompts: list[list[int]], new: int, length: int, window: float
) -> None:
    options = {"delimiters": list(range(MASK)), "delimiter_threshold": 1.01, "length": length, "window": window}
    adaptive = samplers.adablock(0.3, precision="float64", **options)
    fixed = samplers.threshold(0.3, blocks=samplers.Fixed(length), precision="float64")
    runs = [dlm.generate(MODEL, prompts, sampler=s, max_new_tokens=new) for s in (adaptive, fixed)]
    assert [outcome(a) for a in runs[0]] == [outcome(b) for b in runs[1]]


def test_wino_that_never_doubts_takes_nothing_back() -> None:
    sampler = samplers.wino(0.1, 0.0)
    for answer in dlm.generate(MODEL, [[1, 2], [3]], sampler=sampler, max_new_tokens=20, record="commits"):
        assert answer.trace is not None
        assert not any(step.remasked for step in answer.trace.steps)


@pytest.mark.parametrize("name", ["ccd", "ccd_ds"])
def test_coherent_decoding_commits_at_least_its_unit(name: str) -> None:
    for steps in (3, 4, 12):
        sampler = getattr(samplers, name)(steps=steps, warm_up=1)
        (answer,) = dlm.generate(MODEL, [[1, 2]], sampler=sampler, max_new_tokens=12)
        counts = [answer.commit_step.count(step) for step in range(answer.counts.forwards)]
        assert min(counts[:-1], default=1) >= 12 // steps
        assert len(counts) <= steps
