"""FreeDave changes nothing but the number of forwards (specs/modes_and_training.md 1)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from dlm.cli import main
from dlm.drafting import FreeDave
from dlm.errors import SettingsError
from tests.doubles import random_dream, random_llada, table_model
from tests.test_decoder import preset

FAMILIES = {"llada": random_llada(), "dream": random_dream()}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 9, 9, 9, 9, 2, 2, 2, 4], [1, 2]]
CACHES: dict[str, Any] = {
    "none": None,
    "prefix": cache.prefix(),
    "dual": cache.dual(),
    "dkv_prefill": cache.dkv_prefill(),
    "freecache": cache.freecache(),
    "window": cache.window(ahead=4),
}
# Every preset whose next state follows from the present one alone.
SAMPLERS = [
    "topk", "margin", "entropy", "random", "threshold", "factor", "frechet", "entropy_threshold", "localleap", "eb",
    "pc", "certainty_prior", "eoser", "ass", "adablock", "dimple", "ccd", "dream_origin", "dream_entropy",
    "dream_maskgit_plus",
]  # fmt: skip
REFUSED = {
    "credit": "a logit transform with a memory",
    "prophet": "an early exit",
    "sched": "an early exit",
    "klass": "reads the previous forward",
    "wino": "shadow block",
    "dawn": "attention",
    "lopa": "look-ahead branches",
    "saber": "a reviser",
    "slowfast": "cuts rows off",
}


def run(model: Any, sampler: Any, policy: Any, length: int | None, **options: Any) -> list[dlm.Generation]:
    drafter = None if length is None else FreeDave(length)
    options = {"max_new_tokens": 12, "prompts": PROMPTS, **options}
    return dlm.generate(model, options.pop("prompts"), sampler=sampler, cache=policy, drafter=drafter, **options)


def lossless(plain: list[dlm.Generation], drafted: list[dlm.Generation], length: int) -> None:
    for a, b in zip(plain, drafted, strict=True):
        assert b.tokens == a.tokens
        assert b.stop == a.stop
        assert b.confidence == pytest.approx(a.confidence, abs=1e-6, nan_ok=True)
        # Every step of the sampler had a forward of its own or was accepted.
        assert b.counts.forwards + b.counts.accepted_drafts == a.counts.forwards
        assert b.counts.accepted_drafts <= (length - 1) * b.counts.forwards
        assert max(b.commit_step) < b.counts.forwards


@pytest.mark.parametrize("policy", CACHES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_lossless_with_every_sampler_and_cache(name: str, policy: str) -> None:
    sampler = preset(name)
    for model in FAMILIES.values():
        plain = run(model, sampler, CACHES[policy], None)
        drafted = run(model, sampler, CACHES[policy], 4)
        lossless(plain, drafted, 4)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_lossless_whatever_the_batch_the_blocks_and_the_length(data: Any) -> None:
    model = FAMILIES[data.draw(st.sampled_from(sorted(FAMILIES)))]
    name = data.draw(st.sampled_from(["topk", "margin", "random", "threshold", "eb"]))
    policy = CACHES[data.draw(st.sampled_from(["none", "prefix", "dual", "freecache"]))]
    new = data.draw(st.integers(1, 14))
    options: dict[str, Any] = {"blocks": samplers.Fixed(data.draw(st.integers(1, new)))}
    options["temperature"] = data.draw(st.sampled_from([0.0, 0.8]))
    sampler = preset(name, **options)
    prompts = data.draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=4))
    length, size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    plain = run(model, sampler, policy, None, prompts=prompts, max_new_tokens=new, batch_size=size)
    drafted = run(model, sampler, policy, length, prompts=prompts, max_new_tokens=new, batch_size=size)
    lossless(plain, drafted, length)
    for prompt, answer in zip(prompts, drafted, strict=True):
        if prompts.count(prompt) > 1:  # a copy draws from its own stream
            continue
        (alone,) = run(model, sampler, policy, length, prompts=[prompt], max_new_tokens=new)
        assert alone.tokens == answer.tokens
        assert alone.commit_step == answer.commit_step
        assert alone.counts.forwards == answer.counts.forwards
        assert alone.counts.token_forwards == answer.counts.token_forwards


def test_it_saves_forwards_and_feeds_drafts() -> None:
    sampler = samplers.topk(blocks=samplers.Fixed(8))
    plain = run(FAMILIES["llada"], sampler, None, None, max_new_tokens=24)
    drafted = run(FAMILIES["llada"], sampler, None, 4, max_new_tokens=24)
    assert sum(a.counts.forwards for a in drafted) < 0.8 * sum(a.counts.forwards for a in plain)
    assert sum(a.counts.token_forwards for a in drafted) > sum(a.counts.token_forwards for a in plain)


def test_a_length_of_one_is_the_plain_run() -> None:
    sampler = samplers.threshold(0.3, blocks=samplers.Fixed(4))
    plain, drafted = (run(FAMILIES["dream"], sampler, cache.dual(), length) for length in (None, 1))
    for a, b in zip(plain, drafted, strict=True):
        assert (a.tokens, a.commit_step) == (b.tokens, b.commit_step)
        assert a.counts.token_forwards == b.counts.token_forwards


@pytest.mark.parametrize(("length", "forwards"), [(1, 8), (2, 5), (4, 3), (8, 2)])
def test_when_every_guess_holds(length: int, forwards: int) -> None:
    """Answers that do not depend on the canvas: 1 token from the first forward, then ``length`` from each."""
    table = [[0.95 - 0.05 * i, 0.05 + 0.05 * i] for i in range(8)]
    model = table_model([[0.5, 0.5], *table])
    sampler = samplers.topk(blocks=samplers.Fixed(8))
    (answer,) = dlm.generate(model, [[1]], sampler=sampler, drafter=FreeDave(length), max_new_tokens=8)
    assert answer.counts.forwards == forwards
    by_forward = Counter(answer.commit_step)
    assert by_forward[0] == 1
    assert max(by_forward.values()) <= length
    assert answer.counts.accepted_drafts == 8 - forwards


def test_float32_and_the_packaged_model() -> None:
    model, prompts = dlm.load("tiny"), ['Reverse the list: ["Anna", "Bob", "Cleo"]', "47+85="]
    for policy in (None, cache.dual()):
        options = {"prompts": prompts, "max_new_tokens": 32}
        plain = run(model, samplers.topk(), policy, None, **options)
        drafted = run(model, samplers.topk(), policy, 4, **options)
        assert [a.text for a in drafted] == [a.text for a in plain]
        assert sum(a.counts.forwards for a in drafted) < 0.6 * sum(a.counts.forwards for a in plain)


def test_traces_and_streams_of_a_drafted_run() -> None:
    sampler = samplers.topk(blocks=samplers.Fixed(4))
    (answer,) = run(FAMILIES["llada"], sampler, None, 4, prompts=[[1, 2]], record="commits")
    assert answer.trace is not None
    assert list(answer.trace.replay())[-1][2:] == answer.tokens
    assert len(answer.trace.steps) == answer.counts.forwards
    steps = list(dlm.stream(FAMILIES["llada"], [[1, 2]], sampler=sampler, drafter=FreeDave(4), max_new_tokens=12))
    committed: dict[int, int] = {}
    for step in steps[:-1]:
        committed |= step.committed  # type: ignore[union-attr]
    assert [committed[p] for p in range(12)] == answer.tokens


@pytest.mark.filterwarnings("ignore:out of memory")
def test_out_of_memory_halves_the_batch() -> None:
    from tests.test_decoder import Cramped

    sampler = samplers.topk(blocks=samplers.Fixed(4))
    model = random_llada()
    model.backbone = Cramped(model.backbone, 8)
    expected = run(random_llada(), sampler, None, 4, batch_size=4)
    assert [a.tokens for a in run(model, sampler, None, 4, batch_size=4)] == [a.tokens for a in expected]


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "prompt=47+85=", "sampler=topk", "max_new_tokens=32", "format=json"]
    assert main([*arguments, "drafting=freedave", "drafting.draft_length=8"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    plain = json.loads(capsys.readouterr().out)
    assert drafted["tokens"] == plain["tokens"]
    assert drafted["counts"]["forwards"] + drafted["counts"]["accepted_drafts"] == 32


@pytest.mark.parametrize("length", [0, -1, 2.5, True])
def test_lengths_that_are_none(length: Any) -> None:
    with pytest.raises(SettingsError, match="draft_length must be a whole number of at least 1"):
        FreeDave(length)


@pytest.mark.parametrize("name", REFUSED)
def test_samplers_whose_step_needs_more_than_its_state(name: str) -> None:
    with pytest.raises(SettingsError, match=f"drafting=freedave does not go with .*{REFUSED[name]}"):
        run(FAMILIES["llada"], preset(name), None, 4)


@pytest.mark.parametrize(
    "policy", [cache.dkv_decode(), cache.dllm(), cache.vicinity(2, 2), cache.dual(2), cache.sparse()]
)
def test_caches_that_count_steps(policy: Any) -> None:
    with pytest.raises(SettingsError, match="depends on how many steps have been taken; use cache=none, prefix, dual"):
        run(FAMILIES["llada"], samplers.topk(), policy, 4)
    guided = samplers.topk(guidance=1.0)
    with pytest.raises(SettingsError, match="guidance over a cache"):
        run(FAMILIES["llada"], guided, cache.dual(), 4)


def test_guidance_without_a_cache() -> None:
    sampler = samplers.topk(guidance=1.0, blocks=samplers.Fixed(4))
    for model in FAMILIES.values():
        plain, drafted = (run(model, sampler, None, length) for length in (None, 4))
        for a, b in zip(plain, drafted, strict=True):
            assert a.tokens == b.tokens
            assert b.counts.forwards + 2 * b.counts.accepted_drafts == a.counts.forwards
