"""The loop against a naive oracle, and the laws of the design: a row is alone, progress, the mask is no answer."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
import samplers
from dlm.engine.interfaces import Reviser, Selector
from dlm.errors import NumericsError, OutOfMemoryError, ProgressError, PromptError, SettingsError
from dlm.training.filter_file import Filter
from tests.doubles import T6, random_dream, random_llada, table_model, wild_policy
from tests.naive_decoder import at_least, naive_decode, top_k

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK = MODELS["llada"].description.mask_id

PRESETS: dict[str, dict[str, Any]] = {
    "topk": {"tokens_per_step": 2},
    "margin": {},
    "entropy": {"steps": 5},
    "random": {},
    "dream_origin": {"steps": 6},
    "dream_maskgit_plus": {"steps": 5},
    "dream_margin": {"steps": 5, "alg_temp": 0.3},
    "dream_entropy": {},
    "threshold": {"threshold": 0.3},
    "factor": {"factor": 1.5},
    "frechet": {"margin": 0.1},
    "entropy_threshold": {"threshold": 2.0},
    "dimple": {"threshold": 0.4, "steps": 6},
    "prophet": {"early": 3.0, "mid": 2.0, "late": 1.0},
    "sched": {"first": 3.0, "last": 0.5},
    "credit": {"threshold": 0.5},
    "localleap": {"threshold": 0.4, "relaxed": 0.25, "radius": 2},
    "adablock": {"threshold": 0.3, "delimiters": list(range(0, 38, 3)), "delimiter_threshold": 0.1, "length": 3},
    "eb": {"gamma": 1.5},
    "klass": {"threshold": 0.2, "divergence": 0.3},
    "ccd": {"warm_up": 2},
    "ccd_ds": {"warm_up": 2},
    "eoser": {},
    "ass": {},
    "eoser_ass": {},
    "wino": {"wide": 0.2, "narrow": 0.3},
    "hierarchy": {"low": 0.2, "high": 0.5},
    "hierarchy_remask": {"low": 0.2, "high": 0.5, "doubt": 0.3},
    "slowfast": {"explore": 2, "low": 0.2, "high": 0.4},
    "pc": {},
    "dcd": {"threshold": 0.3, "length": 3, "widest": 5},
    "d3llm": {"threshold": 2.0, "length": 3, "begin": 0.3},
    "certainty_prior": {"sigma": 2.0},
    "saber": {},
    "remdm": {"cycles": 3, "number": 2},
    "rcr": {"tokens_per_step": 2},
    "dawn": {"sure": 0.5, "induced": 0.3, "low": 0.2, "edge": 0.1, "sink": 0.2},
    "lopa": {"threshold": 0.5, "branches": 2},
    "dus": {"base": 3},
    "punt": {"tolerance": 0.3, "levels": 3, "threshold": 0.5},
    "info_gain": {"candidates": 3, "threshold": 0.4},
    "core": {"every": 1, "candidates": 2, "protected": 0},
    "soar": {"threshold": 0.6, "beams": 3, "most": 2},
    "unlock": {"threshold": 0.5, "candidates": 2, "floor": 0.1},
    "profiled": {"steps": 4, "entropies": [3 / (j + 1) for j in range(12)]},
    "learn2pd": {"filter": Filter.of_threshold(0.3)},
    "policy": {"policy": wild_policy(), "explore": True},
    "sdar": {"threshold": 0.3, "steps_per_block": 3},
    "llada2": {"threshold": 0.3},
    "fast_dllm_v2": {"threshold": 0.3, "first_alone": 4},
    "overlap": {"gamma": 1.5},
    "verified": {"gamma": 1.5, "drafts": 2, "regret": 0.5, "sure": 0.4},
}
# These plan the whole canvas.
WHOLE = {name for name in PRESETS if name.startswith("dream_")} | {
    "dimple",
    "ccd",
    "ccd_ds",
    "ass",
    "eoser_ass",
    "profiled",
}
# These make their own blocks.
OWN_BLOCKS = {"adablock", "dcd", "d3llm"}
# These take back what they committed, so they may need more forwards than there are positions.
REVISING = {"wino", "hierarchy_remask", "saber", "remdm", "rcr", "core"}
# These work on some models only.
FAMILIES = {"wino": ["llada"]}


def preset(name: str, **extra: Any) -> dlm.Sampler:
    options = {} if name in WHOLE | OWN_BLOCKS else {"blocks": samplers.Fixed(4)}
    return getattr(samplers, name)(**{**PRESETS[name], **options, **extra})


def prompts_strategy(most: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=12), min_size=1, max_size=most)


def same(a: dlm.Generation, b: dlm.Generation) -> bool:
    figures = ("forwards", "token_forwards", "tokens", "tokens_per_forward", "canvas_tokens_per_forward")
    alike = all(getattr(a.counts, name) == getattr(b.counts, name) for name in figures)
    return alike and a.tokens == b.tokens and a.commit_step == b.commit_step


def test_every_preset_is_tested_here() -> None:
    assert set(PRESETS) == set(samplers.PRESETS)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=12)
@given(
    prompts=prompts_strategy(4),
    new=st.integers(1, 11),
    block=st.integers(1, 11),
    rule=st.sampled_from([("topk", 1), ("topk", 3), ("threshold", 0.2), ("threshold", 0.6)]),
)
def test_equals_the_naive_oracle(
    family: str, prompts: list[list[int]], new: int, block: int, rule: tuple[str, Any]
) -> None:
    model, block = MODELS[family], min(block, new)
    kind, value = rule
    sampler = samplers.topk(tokens_per_step=value) if kind == "topk" else samplers.threshold(value)
    sampler = replace(sampler, blocks=samplers.Fixed(block), proposer=replace(sampler.proposer, precision="float64"))
    answers = dlm.generate(model, prompts, sampler=sampler, max_new_tokens=new, batch_size=3)
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens, steps, forwards = naive_decode(
            model, prompt, new, block, top_k(value) if kind == "topk" else at_least(value)
        )
        assert (answer.tokens, answer.commit_step, answer.counts.forwards) == (tokens, steps, forwards)


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=5)
@given(
    prompts=prompts_strategy(6),
    batch_size=st.integers(1, 6),
    new=st.integers(4, 10),
    temperature=st.sampled_from([0.0, 0.8]),
    family=st.sampled_from(["llada", "dream"]),
)
def test_a_row_is_alone(
    name: str, prompts: list[list[int]], batch_size: int, new: int, temperature: float, family: str
) -> None:
    """Law 1, in float64: any batch gives what single runs give, for distinct prompts of unequal length."""
    prompts = [list(p) for p in dict.fromkeys(tuple(p) for p in prompts)]
    family = family if family in FAMILIES.get(name, MODELS) else "llada"
    sampler = preset(name, temperature=temperature, precision="float64")
    options = {"sampler": sampler, "max_new_tokens": new, "seed": 3}
    together = dlm.generate(MODELS[family], prompts, batch_size=batch_size, **options)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = dlm.generate(MODELS[family], [prompt], **options)
        assert same(alone, answer)


def test_sixteen_unequal_prompts_equal_sixteen_single_runs() -> None:
    prompts = [[(7 * i + j) % MASK for j in range(1 + 2 * i)] for i in range(16)]
    for name in ("threshold", "dream_entropy", "random"):
        together = dlm.generate(MODELS["llada"], prompts, sampler=preset(name), max_new_tokens=12, batch_size=16)
        few = dlm.generate(MODELS["llada"], prompts, sampler=preset(name), max_new_tokens=12, batch_size=5)
        alone = [dlm.generate(MODELS["llada"], [p], sampler=preset(name), max_new_tokens=12)[0] for p in prompts]
        assert all(same(a, b) and same(a, c) for a, b, c in zip(alone, together, few, strict=True))


def test_equal_prompts_draw_differently_and_reproducibly() -> None:
    sampler = samplers.topk(temperature=1.5)
    runs = [dlm.generate(MODELS["llada"], [[1, 2]] * 3, sampler=sampler, max_new_tokens=12, seed=s) for s in (0, 0, 1)]
    texts = [[tuple(g.tokens) for g in run] for run in runs]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3
    assert texts[0] != texts[2]


@pytest.mark.parametrize("name", PRESETS)
@settings(max_examples=4)
@given(prompts=prompts_strategy(4), new=st.integers(1, 9), temperature=st.sampled_from([0.0, 3.0]))
def test_ends_full_and_clean(name: str, prompts: list[list[int]], new: int, temperature: float) -> None:
    """Laws 3 and 4: every position filled, none by the mask, the prompt untouched, never more forwards than positions
    unless the schedule itself idles."""
    new = max(new, 2) if "ass" in name else new
    sampler = preset(name, temperature=temperature) if new >= 4 else getattr(samplers, name)(temperature=temperature)
    if name == "adablock" and new < 4:
        sampler = samplers.adablock(delimiters=[5], temperature=temperature)
    if name in ("learn2pd", "policy"):
        sampler = getattr(samplers, name)(**PRESETS[name], temperature=temperature)
    answers = dlm.generate(MODELS["llada"], prompts, sampler=sampler, max_new_tokens=new)
    for prompt, answer in zip(prompts, answers, strict=True):
        assert answer.prompt_tokens == prompt
        assert len(answer.tokens) == new
        assert MASK not in answer.tokens
        assert min(answer.commit_step) >= 0
        assert answer.counts.forwards <= (4 * new if name in REVISING else max(new, sampler.idle_steps))
        assert all(0 < c <= 1 for c in answer.confidence)


def test_blocks_are_filled_from_left_to_right() -> None:
    (answer,) = dlm.generate(
        MODELS["llada"], [[1, 2, 3]], sampler=samplers.topk(blocks=samplers.Fixed(4)), max_new_tokens=10
    )
    spans = [answer.commit_step[i : i + 4] for i in range(0, 10, 4)]
    assert all(max(a) < min(b) for a, b in itertools.pairwise(spans))


def test_batch_stays_full_while_prompts_wait() -> None:
    """Rows of unequal work: whenever somebody waits, no slot is empty."""
    prompts = [[i + 1] * (1 + i % 3) for i in range(9)]
    events = dlm.stream(MODELS["llada"], prompts, sampler=samplers.threshold(0.25), max_new_tokens=8, batch_size=3)
    live: list[int] = []
    done = 0
    for event in events:
        if isinstance(event, tuple):
            done += 1
            continue
        if live and event.index in live:
            waiting = len(prompts) - done - len(live)
            assert len(live) == 3 or waiting <= 0
            live = []
        live.append(event.index)
    assert done == len(prompts)


@dataclass(frozen=True)
class Undo(Reviser):
    """A reviser that takes everything back, for ever."""

    def step(self, view: Any, chosen: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        return view.canvas.writable.clone(), state


def test_a_reviser_that_never_ends_is_ended() -> None:
    sampler = replace(samplers.threshold(0.5), reviser=Undo())
    with pytest.raises(ProgressError, match=r"prompt 0 .* 24 forwards"):
        dlm.generate(table_model(T6), [[0]], sampler=sampler, max_new_tokens=6)


@dataclass(frozen=True)
class NothingAtAll(Selector):
    """A selector that never chooses anything."""

    uses_budget = False

    def step(self, view: Any, state: None) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(view.eligible), state


@dataclass(frozen=True)
class Everything(Selector):
    """A selector that chooses even what is not eligible."""

    uses_budget = False

    def step(self, view: Any, state: None) -> tuple[torch.Tensor, None]:
        return torch.ones_like(view.eligible), state


def test_the_decoder_guards_against_careless_selectors() -> None:
    lazy = replace(samplers.threshold(), selector=NothingAtAll())
    (answer,) = dlm.generate(table_model(T6), [[0]], sampler=lazy, max_new_tokens=6)
    assert sorted(answer.commit_step) == list(range(6))
    greedy = replace(samplers.threshold(blocks=samplers.Fixed(2)), selector=Everything())
    (answer,) = dlm.generate(table_model(T6), [[0]], sampler=greedy, max_new_tokens=6)
    assert answer.commit_step == [0, 0, 1, 1, 2, 2]


def test_guidance_mixes_with_the_run_without_a_prompt() -> None:
    model, prompt, scale = MODELS["llada"], [3, 1, 4], 1.5
    sampler = samplers.topk(guidance=scale, blocks=samplers.Whole(), precision="float64")
    (answer,) = dlm.generate(model, [prompt], sampler=sampler, max_new_tokens=5)
    canvas, mask = [*prompt, *[MASK] * 5], MASK
    for step in range(5):
        with torch.no_grad():
            both = torch.tensor([canvas, [mask] * 3 + canvas[3:]])
            c, u = model.backbone.head(model.backbone.hidden(both))
        probs = (u + (scale + 1) * (c - u)).softmax(-1)
        ranked = sorted((p for p in range(3, 8) if canvas[p] == mask), key=lambda p: -float(probs[p, :mask].max()))
        canvas[ranked[0]] = int(probs[ranked[0], :mask].argmax())
        assert answer.commit_step[ranked[0] - 3] == step
    assert answer.tokens == canvas[3:]
    assert answer.counts.forwards == 10


def test_end_token_switches() -> None:
    table = [[0.05, 0.55, 0.4], [0.6, 0.2, 0.2], [0.9, 0.05, 0.05], [0.1, 0.2, 0.7]]  # id 0 ends a text
    model = table_model(table)

    def run(**options: Any) -> dlm.Generation:
        return dlm.generate(model, [[1]], sampler=samplers.topk(**options), max_new_tokens=4)[0]

    plain = run()
    assert plain.tokens == [1, 0, 0, 2]
    assert plain.commit_step == [3, 2, 0, 1]
    assert plain.counts.tokens == 1
    banned = run(ban_end=True)
    assert banned.tokens == [1, 1, 1, 2]
    last = run(suppress_end=True)
    assert last.tokens == plain.tokens
    assert last.commit_step == [1, 2, 3, 0]  # end tokens last, the lower position first
    stopped = run(stop_at_end=True, blocks=samplers.Fixed(2))
    assert stopped.tokens == [1, 0, 0, 0]
    assert stopped.commit_step[2:] == [-1, -1]
    assert stopped.stop == "end_token"
    assert stopped.counts.forwards == 2


def test_counts_follow_their_definitions() -> None:
    table = [[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.95, 0.05, 0.0], [0.9, 0.1, 0.0]]
    (answer,) = dlm.generate(table_model(table), [[1]], sampler=samplers.topk(), max_new_tokens=4)
    counts = answer.counts
    # Position 2 goes first, then 0 (the lower of two equals), 3, 1: one useful token, fixed by the second forward.
    assert answer.commit_step == [1, 3, 0, 2]
    assert (counts.forwards, counts.token_forwards, counts.tokens) == (4, 20, 1)
    assert counts.tokens_per_forward == 0.5
    assert counts.canvas_tokens_per_forward == 1.0
    assert counts.seconds == pytest.approx(counts.seconds_step + counts.seconds_sampler)


def test_nan_logits_are_an_error_that_names_the_prompt() -> None:
    model = table_model(T6)
    model.backbone.table[3] = torch.nan
    with pytest.raises(NumericsError, match=r"prompt 0.*NaN at step 0"):
        dlm.generate(model, [[0]], sampler=samplers.threshold(), max_new_tokens=6)


class Cramped:
    """A backbone that has memory for so many rows and no more."""

    def __init__(self, inner: Any, rows: int) -> None:
        self.inner, self.rows = inner, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def hidden(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        if tokens.shape[0] > self.rows:
            raise torch.OutOfMemoryError("out of memory")
        return self.inner.hidden(tokens, *rest)


def cramped(rows: int) -> Any:
    model = random_llada()
    model.backbone = Cramped(model.backbone, rows)
    return model


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    prompts = [[i + 1, i + 2] for i in range(7)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = dlm.generate(cramped(2), prompts, sampler=samplers.topk(), max_new_tokens=6, batch_size=7)
    assert [str(w.message) for w in caught] == [
        "out of memory with 7 rows in the batch; going on with 4",
        "out of memory with 4 rows in the batch; going on with 2",
    ]
    expected = dlm.generate(MODELS["llada"], prompts, sampler=samplers.topk(), max_new_tokens=6)
    assert all(same(a, b) for a, b in zip(answers, expected, strict=True))


def test_finished_rows_survive_when_one_row_does_not_fit() -> None:
    class TooLong(Cramped):
        def hidden(self, tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
            if tokens.shape[1] < 12:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
            return self.inner.hidden(tokens, *rest)

    model = random_llada()
    model.backbone = TooLong(model.backbone, 8)
    # Longest first: the long row is done before the short one fails.
    with pytest.raises(OutOfMemoryError, match="prompt 0 alone") as caught:
        dlm.generate(model, [[1], [2] * 9], sampler=samplers.topk(), max_new_tokens=6, batch_size=1)
    assert list(caught.value.finished) == [1]


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([[]], {}, PromptError, "prompt 0 is empty"),
        ([[1], [MASK]], {}, PromptError, "prompt 1 contains the mask id"),
        ([[1, 999]], {}, PromptError, "contains the id 999"),
        ([[1] * 300], {}, PromptError, "context of 256"),
        ([[1]], {"max_new_tokens": 0}, SettingsError, "max_new_tokens must be at least 1"),
        ([[1]], {"batch_size": 0}, SettingsError, "batch_size"),
        ([[1]], {"drafter": object()}, SettingsError, "no drafter"),
        ([[1]], {"record": "everything"}, SettingsError, "unknown"),
        (
            [[1]],
            {"sampler": samplers.topk(blocks=samplers.Fixed(16))},
            SettingsError,
            "longer than the canvas",
        ),
        (
            [[1]],
            {"sampler": samplers.topk(steps=1, blocks=samplers.Fixed(4))},
            SettingsError,
            "one forward for each",
        ),
        (3, {}, PromptError, "prompts must be a list"),
    ],
)
def test_bad_input_is_one_clear_error(prompts: Any, options: dict, error: type[Exception], message: str) -> None:
    settings_ = {"sampler": samplers.topk(), "max_new_tokens": 8, **options}
    with pytest.raises(error, match=message):
        dlm.generate(MODELS["llada"], prompts, **settings_)


def test_no_prompts_no_answers() -> None:
    assert dlm.generate(MODELS["llada"], [], sampler=samplers.topk()) == []


def test_infill_writes_marked_positions_only() -> None:
    for model in MODELS.values():
        row = [3, MASK, 5, 6, MASK, MASK, 7]
        (answer,) = dlm.infill(model, [row], sampler=samplers.topk(), batch_size=2)
        assert [t for t, given in zip(answer.tokens, row, strict=True) if given != MASK] == [3, 5, 6, 7]
        assert MASK not in answer.tokens
        assert [s >= 0 for s in answer.commit_step] == [t == MASK for t in row]
    with pytest.raises(PromptError, match="nothing to fill"):
        dlm.infill(MODELS["llada"], [[1, 2]], sampler=samplers.topk())
    with pytest.raises(PromptError, match="at least one"):
        dlm.infill(MODELS["dream"], [[MASK, 2]], sampler=samplers.topk())


def test_infill_of_a_full_generation_canvas_equals_generation() -> None:
    sampler = samplers.threshold(0.3, blocks=samplers.Whole())
    (whole,) = dlm.infill(MODELS["llada"], [[4, 5, 6, *[MASK] * 6]], sampler=sampler)
    (tail,) = dlm.generate(MODELS["llada"], [[4, 5, 6]], sampler=sampler, max_new_tokens=6)
    assert whole.tokens[3:] == tail.tokens
    assert whole.commit_step[3:] == tail.commit_step


def test_stream_tells_what_generate_returns() -> None:
    sampler = samplers.threshold(0.3)
    options = {"sampler": sampler, "max_new_tokens": 8, "batch_size": 2}
    prompts = [[1, 2, 3], [4], [5, 6]]
    canvas: dict[int, dict[int, int]] = {}
    finished = {}
    for event in dlm.stream(MODELS["llada"], prompts, **options):
        if isinstance(event, tuple):
            finished[event[0]] = event[1]
            continue
        canvas.setdefault(event.index, {}).update(event.committed)
        assert all(event.canvas[p] == t for p, t in event.committed.items())
        assert all(p == c for p, c in zip(event.provisional, event.canvas, strict=True) if c != MASK)
        assert event.done == (MASK not in event.canvas)
    for i, answer in enumerate(dlm.generate(MODELS["llada"], prompts, **options)):
        assert [canvas[i][p] for p in range(8)] == answer.tokens == finished[i].tokens
