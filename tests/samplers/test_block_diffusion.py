"""Block diffusion: blocks at absolute borders, whole attention blocks, editing, the exact cache, and the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from dlm.drafting import FreeDave
from dlm.engine.canvas import Job
from dlm.errors import PromptError, SettingsError
from dlm.models.experts import MixtureOfExperts
from tests.cache.test_block_causal import block_causal
from tests.doubles import random_llada

DATA = Path(__file__).parents[1] / "data" / "block" / "checkpoints"
MODELS = {
    name: dlm.load(DATA / name, device="cpu", dtype="float64", attention_block=8)
    for name in ("sdar_tiny", "fast_dllm_v2_tiny", "llada2_tiny")
}
PROMPTS = [[7] * 3, [9, 4, 2, 8, 1, 30, 5, 2, 11], [5] * 16, [250]]
SAMPLERS = {
    "static": samplers.sdar("static", steps_per_block=3),
    "dynamic": samplers.sdar("dynamic", threshold=0.4),
    "sequential": samplers.sdar("sequential", steps_per_block=4),
    "entropy_bounded": samplers.sdar("entropy_bounded", gamma=2.0),
    "sub-blocks": samplers.fast_dllm_v2(0.4, first_alone=8, blocks=samplers.Aligned(4)),
    "llada2": samplers.llada2(0.5, steps_per_block=4),
    "editing": samplers.llada2(0.6, editing=0.4, most_edits=3),
    "credit": samplers.credit(0.5),
    "dcd": samplers.dcd(0.4, length=3, widest=6),
    "klass": samplers.klass(),
}


def decode(model: Any, prompts: list[list[int]], sampler: Any, **more: Any) -> list[dlm.Generation]:
    return dlm.generate(model, prompts, sampler=sampler, max_new_tokens=13, **more)


def same(one: dlm.Generation, other: dlm.Generation) -> bool:
    return (one.tokens, one.commit_step, one.counts.forwards) == (
        other.tokens,
        other.commit_step,
        other.counts.forwards,
    )


@pytest.mark.covering
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rule", SAMPLERS)
def test_the_cache_is_exact_and_rows_are_alone(name: str, rule: str) -> None:
    model, sampler = MODELS[name], SAMPLERS[rule]
    batch = decode(model, PROMPTS, sampler, batch_size=3)
    for prompt, cached in zip(PROMPTS, batch, strict=True):
        (whole,) = decode(model, [prompt], sampler, cache="none")
        assert same(cached, whole)
        assert len(cached.tokens) == 13
        assert model.description.mask_id not in cached.tokens
        assert cached.counts.token_forwards < whole.counts.token_forwards or whole.counts.forwards == 1


@settings(max_examples=40)
@given(start=st.integers(0, 40), new=st.integers(1, 40), attention=st.sampled_from([1, 2, 8, 12]), data=st.data())
def test_blocks_lie_inside_attention_blocks(start: int, new: int, attention: int, data: st.DataObject) -> None:
    length = data.draw(st.sampled_from([n for n in range(1, attention + 1) if attention % n == 0]))
    blocks = samplers.Fixed(length).within(attention)
    assert blocks == samplers.Aligned(length)
    row = Job(0, (5,) * start + (0,) * new, start, tuple(range(start, start + new)), 0).completed(attention, 0, 999)
    assert row.end % attention == 0
    assert (row.shown_end, row.surplus < attention) == (start + new, True)
    canvas = _canvas(row)
    seen = []
    while bool(canvas.masked.any()):
        first, end, _ = blocks.step(canvas, None)
        span = range(int(first), int(end))
        assert (len(span), span.start % length) == (length, 0)
        assert span.start // attention == (span.stop - 1) // attention
        seen += [place for place in span if bool(canvas.masked[0, place])]
        canvas.fill(canvas.inside(first, end), torch.tensor([5]))
    assert seen == list(range(start, row.end))


def _canvas(row: Job) -> Any:
    from dlm.engine.canvas import Canvas, SpecialIds

    return Canvas.of([row], row.end, SpecialIds(0, (1,)), torch.device("cpu"))


def test_the_rest_of_the_last_block_is_seen_and_not_handed_out() -> None:
    """A canvas of 3 + 13 positions ends with an attention block; one of 3 + 10 is filled up to it with masks, so that
    the blocks before it, and in the last one what does not depend on later commits, are the same."""
    model, sampler = MODELS["sdar_tiny"], samplers.sdar("static")
    (whole,), (cut,) = (dlm.generate(model, [[7] * 3], sampler=sampler, max_new_tokens=new) for new in (13, 10))
    assert cut.tokens == whole.tokens[:10]
    assert cut.commit_step == whole.commit_step[:10]
    # Nothing is computed for what was not asked for once the rest is there.
    assert cut.counts.forwards == max(cut.commit_step) + 1 <= whole.counts.forwards
    streamed = list(dlm.stream(model, [[7] * 3], sampler=sampler, max_new_tokens=10))
    steps = [step for step in streamed if isinstance(step, dlm.StreamStep)]
    assert sorted({place for step in steps for place in step.committed}) == list(range(10))
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]


def test_a_prompt_that_no_longer_fits_once_rounded() -> None:
    model = MODELS["sdar_tiny"]
    kept, model.backbone.description = model.description, replace(model.description, context_length=20)
    try:
        with pytest.raises(PromptError, match="its 19 positions are 24 in whole attention blocks of 8, more than"):
            dlm.generate(model, [[7] * 9], sampler="sdar", max_new_tokens=10)
    finally:
        model.backbone.description = kept


@pytest.mark.parametrize("blocks", [samplers.AdaptiveBlocks(), samplers.PipelinedBlocks(), samplers.Widening()])
def test_schedules_that_reach_behind_the_block_are_refused(blocks: Any) -> None:
    with pytest.raises(SettingsError, match=r"may reach behind the block that is being filled.*use blocks=aligned"):
        decode(MODELS["sdar_tiny"], PROMPTS, samplers.topk(blocks=blocks))


def test_what_commits_all_that_is_left_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"'prophet' may commit all that is left.*use another sampler"):
        decode(MODELS["sdar_tiny"], PROMPTS, samplers.prophet())
    with pytest.raises(
        SettingsError, match=r"blocks\.length=3 does not divide .* of 8 positions: use one of 1, 2, 4, 8"
    ):
        decode(MODELS["sdar_tiny"], PROMPTS, samplers.topk(blocks=samplers.Fixed(3)))
    # What lies inside one attention block, or is one, is taken as it is meant.
    whole, own = (decode(MODELS["sdar_tiny"], PROMPTS, samplers.topk(blocks=b)) for b in (samplers.Whole(), None))
    assert all(same(one, other) for one, other in zip(whole, own, strict=True))


def test_a_trace_shows_what_is_generated_of_a_block() -> None:
    sampler = samplers.sdar("static")
    (answer,) = dlm.generate(MODELS["sdar_tiny"], [[7] * 3], sampler=sampler, max_new_tokens=13, record="order")
    assert answer.trace is not None
    assert [step.block for step in answer.trace.steps] == [(3, 8)] * 5 + [(8, 16)] * 8
    assert list(answer.trace.replay())[-1] == [7, 7, 7, *answer.tokens]


def test_steps_of_a_block_count_what_is_given_of_it() -> None:
    """Eight positions in three steps: 3, 3, 2. A prompt of three leaves five, which are done after two."""
    model = MODELS["sdar_tiny"]
    (answer,) = dlm.generate(model, [[7] * 3], sampler=samplers.sdar("static", steps_per_block=3), max_new_tokens=13)
    sizes = [answer.commit_step.count(step) for step in range(answer.counts.forwards)]
    assert sizes == [3, 2, 3, 3, 2]


def test_editing_ends_with_a_step_that_changes_nothing() -> None:
    model = block_causal("llada", 8)
    sampler = samplers.llada2(0.3, editing=0.2, most_edits=5)
    (answer,) = dlm.generate(model, [[7] * 8], sampler=sampler, max_new_tokens=16, record="commits")
    assert answer.trace is not None
    changes = [len(step.positions) for step in answer.trace.steps]
    assert len(changes) == answer.counts.forwards
    (never,) = dlm.generate(model, [[7] * 8], sampler=samplers.llada2(0.3, editing=1.01), max_new_tokens=16)
    (plain,) = dlm.generate(model, [[7] * 8], sampler=samplers.llada2(0.3), max_new_tokens=16)
    # Where nothing is edited, every block costs the one step that finds so.
    assert (never.tokens, never.counts.forwards) == (plain.tokens, plain.counts.forwards + 2)
    (bounded,) = dlm.generate(model, [[7] * 8], sampler=replace(sampler, selector=samplers.Editing(0.3, 0.0, 1, 0)),
                              max_new_tokens=16)  # fmt: skip
    assert bounded.counts.forwards <= 16  # with no step to spare a block ends with its last mask


def test_editing_refuses_what_it_cannot_bear() -> None:
    with pytest.raises(SettingsError, match="does not go with a selector that rewrites"):
        decode(MODELS["llada2_tiny"], PROMPTS, samplers.llada2(0.5, editing=0.5), drafter=FreeDave(2))


@pytest.mark.parametrize("acceptance", ["standard", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_drafts_are_lossless_on_block_diffusion(name: str, acceptance: Any) -> None:
    for rule in ("static", "dynamic", "sub-blocks"):
        plain = decode(MODELS[name], PROMPTS, SAMPLERS[rule])
        drafted = decode(MODELS[name], PROMPTS, SAMPLERS[rule], drafter=FreeDave(3, acceptance=acceptance))
        for one, other in zip(plain, drafted, strict=True):
            assert one.tokens == other.tokens
            assert other.counts.forwards + other.counts.accepted_drafts == one.counts.forwards


def test_the_cache_inside_a_block_feeds_less_and_is_no_cache_for_drafts() -> None:
    model = MODELS["fast_dllm_v2_tiny"]
    sampler = samplers.fast_dllm_v2(1.01, blocks=samplers.Aligned(2))
    exact, cheap = (decode(model, PROMPTS, sampler, cache=cache.block_causal(sub_blocks=s)) for s in (False, True))
    assert all(a.counts.token_forwards > b.counts.token_forwards for a, b in zip(exact, cheap, strict=True))
    batch = decode(model, PROMPTS, sampler, cache=cache.block_causal(sub_blocks=True), batch_size=2)
    assert all(same(one, other) for one, other in zip(cheap, batch, strict=True))
    with pytest.raises(SettingsError, match="drafting=freedave does not go with cache SubBlocks"):
        decode(model, PROMPTS, sampler, cache=cache.block_causal(sub_blocks=True), drafter=FreeDave(2))


@pytest.mark.parametrize(("start", "expected"), [(3, 2), (8, 3), (16, 3), (21, 4)])
def test_forwards_that_the_published_loops_spend_on_keys(start: int, expected: int) -> None:
    """One for the prompt where it fills a block, one for every block that is filled; the recorded runs agree."""
    for drafter in (None, FreeDave(4, acceptance="eager")):
        (answer,) = decode(MODELS["sdar_tiny"], [[7] * start], samplers.sdar(), drafter=drafter)
        assert answer.counts.store_forwards == expected
    assert decode(random_llada(), [[7] * start], samplers.topk())[0].counts.store_forwards == 0


def test_how_many_experts_a_forward_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over forwards and layers; a batch shares its forwards."""
    model, asked = MODELS["llada2_tiny"], []
    forward = MixtureOfExperts.forward

    def listen(self: MixtureOfExperts, n: Any) -> Any:
        out = forward(self, n)
        asked.append(len(set(self.router(n.reshape(-1, n.shape[-1]))[0].flatten().tolist())))
        return out

    monkeypatch.setattr(MixtureOfExperts, "forward", listen)
    for policy in ("none", "block_causal"):
        asked.clear()
        one, other = decode(model, [[7] * 9, [5] * 9], samplers.llada2(0.5), cache=policy, batch_size=2)
        assert one.counts.forwards + other.counts.forwards > 4
        longest = max(one.counts.forwards, other.counts.forwards)
        layers = len(asked) // longest
        for answer in (one, other):
            counted = asked[: answer.counts.forwards * layers]
            assert answer.counts.experts == pytest.approx(sum(counted) / len(counted))
    assert decode(MODELS["sdar_tiny"], [[7]], samplers.sdar())[0].counts.experts == 0


def test_infill_on_block_diffusion() -> None:
    model, mask = MODELS["llada2_tiny"], MODELS["llada2_tiny"].description.mask_id
    row = [5, 6, mask, mask, 9, 10, 11, mask, 12, mask, 13]
    (answer,) = dlm.infill(model, [row], sampler="llada2")
    assert [token for token, given in zip(answer.tokens, row, strict=True) if given != mask] == [
        5,
        6,
        9,
        10,
        11,
        12,
        13,
    ]
    assert mask not in answer.tokens
    assert len(answer.tokens) == len(row)


def test_the_end_is_reached_without_changing_the_text() -> None:
    model = MODELS["sdar_tiny"]
    whole = decode(model, PROMPTS, samplers.sdar("dynamic", threshold=0.4))
    end = whole[1].tokens[6]
    model.backbone.description, kept = replace(model.description, eos_ids=(end,)), model.description
    try:
        short = decode(model, PROMPTS, samplers.sdar("dynamic", threshold=0.4, stop_at_end="reached"))
    finally:
        model.backbone.description = kept
    for one, other in zip(whole, short, strict=True):
        reached = one.tokens.index(end) + 1 if end in one.tokens else 13
        assert one.tokens[:reached] == other.tokens[:reached]
        assert other.counts.forwards <= one.counts.forwards
