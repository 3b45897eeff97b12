"""Blocks that move, are open in places, and rows that grow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from dlm.engine.interfaces import BlockSchedule
from dlm.engine.sampler_run import SamplerRun, SamplerState
from dlm.errors import PromptError, SettingsError
from tests.doubles import one_layer, random_dream, random_llada, table_model
from tests.naive_decoder import answers_of
from tests.samplers.runs import blank_canvas, blocks_of, commits

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK = MODELS["llada"].description.mask_id
END = MODELS["llada"].description.eos_ids[0]
PROMPTS = st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6)


def commit(canvas: list[int], window: list[int], tokens: list[int], probs: list[float], threshold: float) -> set[int]:
    """Threshold decoding: every sure position of the window, or its surest one."""
    sure = {p for p in window if probs[p] >= threshold} or {max(window, key=lambda p: (probs[p], -p))}
    for p in sure:
        canvas[p] = tokens[p]
    return sure


def naive_sliding(
    model: Any, prompt: list[int], new: int, length: int, widest: int | None, threshold: float
) -> tuple[list[int], int]:
    """DSB as published (generate_dsb): the window ends length + (so many filled) behind the start."""
    canvas, filled, forwards = prompt + [MASK] * new, 0, 0
    while MASK in canvas:
        first = canvas.index(MASK)
        end = min(len(prompt) + length + filled, len(canvas) if widest is None else first + widest)
        tokens, probs = answers_of(model, canvas)
        window = [p for p in range(first, min(end, len(canvas))) if canvas[p] == MASK]
        filled += len(commit(canvas, window, tokens, probs, threshold))
        forwards += 1
    return canvas[len(prompt) :], forwards


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=15)
@given(
    prompt=PROMPTS, new=st.integers(4, 12), length=st.integers(1, 4), spare=st.none() | st.integers(0, 3),
    threshold=st.sampled_from([0.05, 0.3, 0.9]),
)  # fmt: skip
def test_the_sliding_window_is_the_published_one(
    family: str, prompt: list[int], new: int, length: int, spare: int | None, threshold: float
) -> None:
    widest = None if spare is None else length + spare
    blocks = samplers.SlidingBlocks(length, widest)
    sampler = samplers.threshold(threshold, blocks=blocks, precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=new)
    expected = naive_sliding(MODELS[family], prompt, new, length, widest, threshold)
    assert (answer.tokens, answer.counts.forwards) == expected


def naive_pipelined(model: Any, prompt: list[int], new: int, length: int, begin: float, level: float) -> Any:
    """d3LLM as published for Dream (_sample_multi_block), with a threshold of confidence in place of one of entropy."""
    canvas, forwards, opened, start = prompt + [MASK] * new, 0, 1, len(prompt)
    blocks = [range(a, min(a + length, start + new)) for a in range(start, start + new, length)]
    while MASK in canvas:
        left = [sum(canvas[p] == MASK for p in block) for block in blocks]
        if opened < len(blocks) and len(blocks[opened - 1]) - left[opened - 1] >= begin * len(blocks[opened - 1]):
            opened += 1
        tokens, probs = answers_of(model, canvas)
        first = next(block for block in blocks if MASK in [canvas[p] for p in block])
        front = commit(canvas, [p for p in first if canvas[p] == MASK], tokens, probs, level)
        for p in (p for block in blocks[:opened] for p in block if canvas[p] == MASK and probs[p] >= level):
            assert p not in front
            canvas[p] = tokens[p]
        forwards += 1
    return canvas[start:], forwards


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=15)
@given(
    prompt=PROMPTS, new=st.integers(4, 12), length=st.integers(1, 4), level=st.sampled_from([0.05, 0.1, 0.3]),
    begin=st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]),
)  # fmt: skip
def test_open_blocks_are_the_published_ones(
    family: str, prompt: list[int], new: int, length: int, level: float, begin: float
) -> None:
    sampler = samplers.threshold(level, blocks=samplers.PipelinedBlocks(length, begin=begin), precision="float64")
    selector = samplers.Union((sampler.selector, samplers.BestInFront(length)))
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=replace(sampler, selector=selector), max_new_tokens=new)
    expected = naive_pipelined(MODELS[family], prompt, new, length, begin, level)
    assert (answer.tokens, answer.counts.forwards) == expected


def test_a_block_opens_when_the_last_is_far_enough() -> None:
    """Blocks of two, of which the first position is sure and the second is not."""
    table = table_model([[p, *[(1 - p) / 3] * 3] for p in (0.95, 0.4) * 3])
    pipelined = samplers.threshold(0.9, blocks=samplers.PipelinedBlocks(2, begin=0.5))
    assert commits(table, pipelined, 6) == [{0}, {2}, {4}, {1}, {3}, {5}]
    both = replace(pipelined, selector=samplers.Union((pipelined.selector, samplers.BestInFront(2))))
    assert commits(table, both, 6) == [{0}, {1, 2}, {3, 4}, {5}]
    for blocks in (samplers.PipelinedBlocks(2, begin=0.51), samplers.Fixed(2)):
        assert commits(table, samplers.threshold(0.9, blocks=blocks), 6) == [{i} for i in range(6)]
    # 3 of 30 is a tenth, whatever a tenth is in binary.
    canvas = blank_canvas(60)
    canvas.tokens[0, :3] = 1
    assert samplers.PipelinedBlocks(30, begin=0.1).step(canvas, None)[1].item() == 60


def test_the_window_slides_as_positions_fill() -> None:
    """Six positions, a window of two. Sure ones behind the border of a fixed block need not wait for the others."""
    table = [[p, *[(1 - p) / 3] * 3] for p in (0.4, 0.95, 0.95, 0.95, 0.95, 0.95)]
    sliding = samplers.threshold(0.9, blocks=samplers.SlidingBlocks(2))
    assert commits(table_model(table), sliding, 6) == [{1}, {2}, {3}, {4}, {5}, {0}]
    fixed = samplers.threshold(0.9, blocks=samplers.Fixed(2))
    assert commits(table_model(table), fixed, 6) == [{1}, {0}, {2, 3}, {4, 5}]
    narrow = samplers.threshold(0.9, blocks=samplers.SlidingBlocks(2, widest=32))
    assert commits(table_model(table), narrow, 6) == [{1}, {2}, {3}, {4}, {5}, {0}]


def test_the_window_stays_inside_an_attention_block() -> None:
    canvas = blank_canvas(12)
    blocks = samplers.SlidingBlocks(3).within(4)
    canvas.tokens[0, :5] = 1
    start, end, _ = blocks.step(canvas, None)
    assert (start.item(), end.item()) == (5, 8)
    canvas.tokens[0, 5] = 1
    assert [x.item() for x in blocks.step(canvas, None)[:2]] == [6, 8]


def test_given_tokens_do_not_widen_the_window() -> None:
    canvas = blank_canvas(8)
    canvas.writable[0, 5] = False
    canvas.tokens[0, 5] = 3
    start, end, _ = samplers.SlidingBlocks(6).step(canvas, None)
    assert (start.item(), end.item()) == (0, 7)
    masks = canvas.masked & canvas.inside(start, end)
    assert masks.sum() == 6


@dataclass(frozen=True)
class EveryOther(BlockSchedule):
    """Two blocks at once: the even positions of the region, then the odd ones."""

    def longest(self, region: int) -> int:
        return region

    def step(self, canvas: Any, state: None) -> tuple[Any, Any, None]:
        return canvas.start, canvas.end, state

    def open_positions(self, canvas: Any, start: Any, end: Any) -> Any:
        even = (canvas.columns - canvas.start[:, None]) % 2 == 0
        return torch.where((canvas.masked & even).any(dim=1, keepdim=True), even, True)


@pytest.mark.parametrize("name", ["none", "dual", "dkv_decode", "freecache"])
def test_several_blocks_may_be_open_at_once(name: str) -> None:
    sampler = samplers.topk(tokens_per_step=2, blocks=EveryOther())
    (answer,) = dlm.generate(MODELS["llada"], [[1, 2]], sampler=sampler, cache=getattr(cache, name)(), max_new_tokens=8)
    assert [step // 2 for step in answer.commit_step] == [0, 1, 0, 1, 0, 1, 0, 1]


BLOCKS = {
    "sliding": samplers.SlidingBlocks(3), "narrow": samplers.SlidingBlocks(3, 5),
    "pipelined": samplers.PipelinedBlocks(3, begin=0.3),
    "growing": samplers.GrowingBlocks(3, 3, 2, 2, 0.3, 0.6, 0.9), "every other": EveryOther(),
    "density": samplers.DensityBlocks(3, 3, 1, 0.05, 0.2),
}  # fmt: skip


@pytest.mark.covering
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=6)
@given(
    prompts=st.lists(PROMPTS, min_size=2, max_size=4, unique_by=tuple), new=st.integers(5, 10), batch=st.integers(1, 3),
    temperature=st.sampled_from([0.0, 0.9]),
)  # fmt: skip
def test_a_row_is_alone(
    family: str, name: str, prompts: list[list[int]], new: int, batch: int, temperature: float
) -> None:
    sampler = samplers.threshold(0.3, blocks=BLOCKS[name], precision="float64", temperature=temperature)
    options = {"sampler": sampler, "max_new_tokens": new, "seed": 5, "record": "order"}
    together = dlm.generate(MODELS[family], [*prompts, prompts[0]], batch_size=batch, **options)
    for prompt, other in zip(prompts, together, strict=False):
        (alone,) = dlm.generate(MODELS[family], [prompt], **options)
        assert (other.tokens, other.commit_step) == (alone.tokens, alone.commit_step)
        assert other.counts.token_forwards == alone.counts.token_forwards
        assert MASK not in other.tokens
        assert other.trace is not None
        assert list(other.trace.replay())[-1] == [*prompt, *other.tokens]


REFUSED = {"prefix", "dual", "vicinity", "sparse", "window"}
MOVED = {name: getattr(cache, name)() for name in cache.PRESETS if name not in ("none", "block_causal", "dkv_greedy")}
MOVED |= {
    "window": cache.window(ahead=4), "recap": cache.recap(2, 2), "dllm": cache.dllm(4, 2, 0.25),
    "vicinity": cache.vicinity(2, 2), "dual every": cache.dual(every=3),
    "adaptive": cache.adaptive(before=2, after=2, threshold=None),
    "entropy": cache.entropy(threshold=None, every_tokens=3), "dsb": cache.dsb(before=2, every_tokens=3),
    "delayed_prefix": cache.delayed_prefix(1, 4), "dsb_trailing": cache.dsb(2, 2, 3, trailing=True),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVED)
def test_caches_under_a_sliding_window(name: str) -> None:
    """A cache either says why not, or (in a model of one layer, where keys depend on their token alone) is exact."""
    sampler = samplers.threshold(0.2, blocks=samplers.SlidingBlocks(4), precision="float64")
    model, options = one_layer(), {"sampler": sampler, "max_new_tokens": 16}
    if name in REFUSED:
        with pytest.raises(SettingsError, match="its blocks move"):
            dlm.generate(model, [[1, 2, 3]], cache=MOVED[name], **options)
        return
    prompts = [[1, 2, 3], [4, 5]]
    cached = dlm.generate(model, prompts, cache=MOVED[name], **options)
    plain = dlm.generate(model, prompts, **options)
    if name != "recap":  # it commits only what its local set holds
        assert [a.tokens for a in cached] == [a.tokens for a in plain]
    assert sum(a.counts.token_forwards for a in cached) < sum(a.counts.token_forwards for a in plain) or name == "dllm"


def naive_growing(model: Any, prompt: list[int], most: int, how: samplers.GrowingBlocks, threshold: float) -> list[Any]:
    """DAEDAL with Python lists, after its published loop; ours saves the forward that would only repeat the one
    at which the first length is settled, and keeps what stands in a row that has come to its bound."""
    start, length, settled, forwards = len(prompt), how.length or 32, False, 0
    canvas = prompt + [MASK] * min(how.initial, most)
    while MASK in canvas:
        tokens, probs = answers_of(model, canvas)
        forwards += 1
        right = [p for p in reversed(range(start, len(canvas))) if tokens[p] == END][: how.window]
        ends, room = sum(probs[p] for p in right) / how.window, start + most - len(canvas)
        if not settled and ends < how.enough and room > 0:
            canvas += [MASK] * min(how.step_size, room)
            continue
        settled = True
        first = start + (canvas.index(MASK) - start) // length * length
        window = [p for p in range(first, min(first + length, len(canvas))) if canvas[p] == MASK]
        sure = commit(canvas, window, tokens, probs, threshold)
        doubted = [p for p in window if p not in sure and probs[p] < how.unsure]
        if doubted and ends < how.certain:
            worst = min(doubted, key=lambda p: (probs[p], p))
            canvas[worst:worst] = [MASK] * min(how.step_size - 1, room)
    return [canvas[start:], forwards]


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=20)
@given(
    prompt=PROMPTS, initial=st.integers(1, 6), length=st.integers(1, 5), step=st.integers(1, 3),
    window=st.integers(1, 4), enough=st.sampled_from([0.0, 0.02, 0.1]), certain=st.sampled_from([0.0, 0.05, 1.0]),
    unsure=st.sampled_from([0.0, 0.05, 0.2]),
)  # fmt: skip
def test_a_growing_row_is_the_published_one(family: str, prompt: list[int], **how: Any) -> None:
    names = {"step": "step_size"}
    blocks = samplers.GrowingBlocks(**{names.get(k, k): v for k, v in how.items()})
    sampler = samplers.threshold(0.1, blocks=blocks, precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=12)
    tokens, forwards = naive_growing(MODELS[family], prompt, 12, blocks, 0.1)
    assert answer.tokens == tokens + [END] * (12 - len(tokens))
    assert answer.counts.forwards == forwards
    assert answer.stop == "filled"
    assert answer.counts.canvas_tokens_per_forward == pytest.approx(len(tokens) / forwards)


def naive_density(model: Any, prompt: list[int], most: int, how: samplers.DensityBlocks, threshold: float) -> list[Any]:
    """rho-EOS with Python lists: fill, then append masks or take them off by the share of those left that end."""
    start, length, forwards, sizes = len(prompt), how.length or 32, 0, []
    canvas = prompt + [MASK] * min(how.initial, most)
    while MASK in canvas:
        sizes.append(len(canvas) - start)
        tokens, probs = answers_of(model, canvas)
        forwards += 1
        first = start + (canvas.index(MASK) - start) // length * length
        window = [p for p in range(first, min(first + length, len(canvas))) if canvas[p] == MASK]
        commit(canvas, window, tokens, probs, threshold)
        left = [p for p in range(start, len(canvas)) if canvas[p] == MASK]
        if left:
            density = Fraction(sum(tokens[p] == END for p in left), len(left))
            below, above = Fraction(str(how.low)) - density, density - Fraction(str(how.high))
            count = how.step_size * 2 ** (min(math.ceil(10 * max(below, above)), 4) - 1)
            if below > 0:
                canvas += [MASK] * min(int(count), start + most - len(canvas))
            elif above > 0:
                while count and canvas[-1] == MASK:
                    canvas.pop()
                    count -= 1
    return [canvas[start:], forwards, sizes]


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=40)
@given(
    prompt=PROMPTS, initial=st.integers(1, 12), length=st.integers(1, 5), step=st.integers(1, 3),
    bounds=st.sampled_from([(0.0, 0.0), (0.0, 0.1), (0.1, 0.3), (0.4, 0.6), (0.05, 1.0)]),
)  # fmt: skip
def test_a_row_goes_with_the_density_of_its_ends(family: str, prompt: list[int], bounds: Any, **how: Any) -> None:
    blocks = samplers.DensityBlocks(how["initial"], how["length"], how["step"], *bounds)
    sampler = samplers.threshold(0.1, blocks=blocks, precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=14)
    tokens, forwards, sizes = naive_density(MODELS[family], prompt, 14, blocks, 0.1)
    assert answer.tokens == tokens + [END] * (14 - len(tokens))
    assert (answer.counts.forwards, answer.stop) == (forwards, "filled")
    assert answer.counts.token_forwards == sum(sizes) + len(prompt) * forwards
    assert answer.counts.canvas_tokens_per_forward == pytest.approx(len(tokens) / forwards)


def test_a_row_shrinks_by_the_tenths_that_too_many_masks_end() -> None:
    """Six positions, of which the last four end: of the five masks that the first step leaves 0.8 do, two tenths too
    many, so two are taken off; then all of two, and nothing is left. Where none ends, four tenths are missing."""
    blocks = samplers.DensityBlocks(initial=6, step_size=1)
    table = [[0.05, 0.95 - 0.01 * i, 0.0] for i in range(2)] + [[0.9 - 0.01 * i, 0.1, 0.0] for i in range(6)]
    sampler = samplers.topk(blocks=blocks)
    (answer,) = dlm.generate(table_model(table), [[1]], sampler=sampler, max_new_tokens=8, record="order")
    assert answer.trace is not None
    assert [(step.cut, step.grown) for step in answer.trace.steps] == [(5, None), (3, None)]
    assert (answer.tokens, answer.counts.token_forwards) == ([1, 1, *[0] * 6], 7 + 5)
    (answer,) = dlm.generate(table_model([table[0]] * 12), [[1]], sampler=sampler, max_new_tokens=12, record="order")
    assert answer.trace is not None
    assert [step.grown for step in answer.trace.steps][:2] == [(7, 6), None]
    assert answer.tokens == [1] * 12


def test_a_row_grows_where_it_is_unsure_and_not_beyond_its_bound() -> None:
    """No end of text anywhere: the first length goes to its bound in steps of two, and the row is filled."""
    table = [[1 / 3 + 0.01 * i, *[(2 / 3 - 0.01 * i) / 2] * 2] for i in range(8)]
    blocks = samplers.GrowingBlocks(initial=2, length=8, step_size=2, window=4)
    model = table_model([[0.0, *row] for row in table])
    (answer,) = dlm.generate(model, [[1]], sampler=samplers.topk(blocks=blocks), max_new_tokens=7, record="order")
    assert answer.trace is not None
    assert [step.grown for step in answer.trace.steps if step.grown] == [(3, 2), (5, 2), (7, 1)]
    assert answer.counts.forwards == 3 + 7
    assert answer.counts.token_forwards == 3 + 5 + 7 + 7 * 8


def test_an_exit_waits_until_the_row_has_stopped_growing() -> None:
    """What it commits has been scored: the answer is that of one forward over the row as long as it got."""
    model, blocks = MODELS["llada"], samplers.GrowingBlocks(initial=2, length=3, step_size=3, window=4)
    leave = samplers.AnswerGap(thresholds=samplers.Stages(-1e9, -1e9, -1e9))
    sampler = samplers.topk(blocks=blocks, exit=leave, precision="float64")
    (answer,) = dlm.generate(model, [[1, 2]], sampler=sampler, max_new_tokens=9)
    assert (answer.stop, answer.counts.forwards, set(answer.commit_step)) == ("early_exit", 4, {3})
    assert answer.tokens == answers_of(model, [1, 2] + [MASK] * 9)[0][2:]


def test_what_moves_with_a_growing_row_is_refused() -> None:
    model, blocks = MODELS["llada"], samplers.GrowingBlocks(initial=2)
    with pytest.raises(SettingsError, match="its blocks grow"):
        dlm.generate(model, [[1]], sampler=samplers.topk(blocks=blocks), cache=cache.dual(), max_new_tokens=4)
    with pytest.raises(SettingsError, match="pinned tokens need blocks that do not grow"):
        dlm.generate(model, [[1]], sampler=samplers.topk(blocks=blocks), max_new_tokens=4, pinned={1: 3})
    with pytest.raises(SettingsError, match="infill"):
        dlm.infill(model, [[1, MASK, 2, MASK]], sampler=samplers.topk(blocks=blocks))
    for moving in (blocks, samplers.SlidingBlocks(2)):
        with pytest.raises(SettingsError, match="give tokens_per_step in place of steps"):
            samplers.topk(steps=4, blocks=moving)
    for other in (samplers.credit, samplers.klass, samplers.wino, samplers.lopa):
        with pytest.raises(SettingsError, match="GrowingBlocks grow, which does not go with"):
            other(blocks=blocks)
    with pytest.raises(SettingsError, match="blocks that move or grow"):
        dlm.generate(
            model, [[1]], sampler=samplers.topk(blocks=samplers.SlidingBlocks(2)), max_new_tokens=4,
            drafter=dlm.drafting.FreeDave(2),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("part", "wrong", "message"),
    [
        (samplers.SlidingBlocks, {"length": 0}, "at least 1"),
        (samplers.SlidingBlocks, {"length": 8, "widest": 4}, "less than the length"),
        (samplers.GrowingBlocks, {"step_size": 0}, "at least 1"),
        (samplers.GrowingBlocks, {"unsure": 1.5}, "a probability"),
        (samplers.DensityBlocks, {"low": 0.7}, "blocks.low <= blocks.high"),
        (samplers.DensityBlocks, {"initial": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(part: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        part(**wrong)


def test_an_error_of_a_growing_prompt_is_that_of_any_other() -> None:
    sampler = samplers.topk(blocks=samplers.GrowingBlocks())
    with pytest.raises(PromptError, match="context"):
        dlm.generate(MODELS["llada"], [[1] * 60], sampler=sampler, max_new_tokens=9999)


def test_masks_that_come_into_a_moving_block_are_counted() -> None:
    canvas = blank_canvas(6)
    sampler = samplers.topk(blocks=samplers.SlidingBlocks(3))
    rules, state = SamplerRun(sampler, False, 6, 3), SamplerState.of(sampler, canvas)
    blocks = replace(blocks_of(canvas), block=torch.zeros_like(canvas.writable))
    blocks, opened = rules.open_blocks(canvas, blocks, state)
    assert (opened.tolist(), blocks.block_masks.tolist(), blocks.block_end.tolist()) == ([True], [3], [3])
    canvas.tokens[0, 1] = 5
    blocks, opened = rules.open_blocks(canvas, blocks.later(1), state)
    assert (opened.tolist(), blocks.block_masks.tolist(), blocks.block_end.tolist()) == ([False], [4], [4])
    assert blocks.block_step.tolist() == [1]
