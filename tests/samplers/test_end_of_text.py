"""End-of-text prediction: what is cut away, when, and that nothing else changes."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from rich.console import Console

import cache
import dlm
import samplers
from dlm.display import card
from dlm.speculation import FreeDave
from dlm.training.filter_file import Filter, block_inputs
from tests.doubles import proposal_table, random_dream, random_llada, scripted_model, table_model, wild_policy
from tests.naive_decoder import naive_logits
from tests.samplers.runs import blank_canvas, blocks_of, decode, history, outcome, view_of

RULES = ["decoded", "complete", "reached", "accepted", "reference"]
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 7, 7], [5], [3, 5, 8, 9, 7]]
END = 0  # of the table models
# Specification 2.9 D: v = (a, b, E, c | E, E, E, E), one block of 4 after another.
CONFIDENCES = [0.9, 0.5, 0.6, 0.2, 0.7, 0.95, 0.9, 0.99]
TOKENS = [1, 2, END, 3, END, END, END, END]
EXAMPLE = proposal_table(list(zip(TOKENS, CONFIDENCES, strict=True)))


def leaning(model: Any, factor: float = 3.0) -> Any:
    """The model with an end-of-text id that wins often."""
    model.backbone.requires_grad_(False)
    with torch.no_grad():
        model.backbone.get_output_embeddings().weight[model.description.eos_ids[0]] *= factor
    return model


MODELS = {"llada": leaning(random_llada()), "dream": leaning(random_dream())}


@dataclass(frozen=True)
class Filled:
    """Learn2PD's filter that takes for final what is above a level, and the surest position in any case."""

    level: float

    def sampler(self, block: int, **options: Any) -> dlm.Sampler:
        filter = replace(Filter.of_threshold(self.level, block), threshold=0.5)
        return samplers.learn2pd(filter, blocks=samplers.Fixed(block), precision="float64", **options)


def truncating(model: Any, prompt: list[int], new: int, block: int, stop: samplers.EndOfText, level: float) -> Any:
    """A plain loop that really shortens the row: tokens, steps, forwards, positions fed."""
    mask, end_id = model.description.mask_id, model.description.eos_ids[0]
    canvas, steps, forwards, fed = list(prompt) + [mask] * new, [-1] * new, 0, 0
    first = len(prompt)
    while first < len(canvas):
        last = min(first + block, len(canvas))
        open_ = [p for p in range(first, last) if canvas[p] == mask]
        if not open_:
            first += block
            continue
        logits = naive_logits(model, canvas)
        fed += len(canvas)
        probs = logits.softmax(-1)
        logits[:, mask] = -torch.inf
        best = {p: int(logits[p].argmax()) for p in range(first, len(canvas)) if canvas[p] == mask}
        sure = {p: float(probs[p, token]) for p, token in best.items()}
        accepted = [p for p in open_ if sure[p] > level]
        for p in {*accepted, max(open_, key=lambda p: (sure[p], -p))}:
            canvas[p], steps[p - len(prompt)] = best[p], forwards
        forwards += 1
        done = mask not in canvas[first:last]
        written = [p for p in range(len(prompt), len(canvas)) if canvas[p] == end_id]
        found = [p for p in accepted if best[p] == end_id]
        ahead = [p for p, token in best.items() if token == end_id and sure[p] >= stop.min_confidence]
        if stop.rule == "decoded" or (stop.rule == "complete" and done):
            found = written
        elif stop.rule == "complete":
            found = []
        elif stop.rule == "reached":
            found = [p for p in written if mask not in canvas[:p]]
        elif stop.rule == "reference" and not found and ahead:
            found = [max(ahead, key=lambda p: (sure[p], -p)) if stop.choice == "argmax" else min(ahead)]
        if found:
            canvas = canvas[: min(found) + 1]
    kept = len(canvas) - len(prompt)
    steps[kept:] = [-1] * (new - kept)
    return canvas[len(prompt) :] + [end_id] * (new - kept), steps, forwards, fed


STOPS = [samplers.EndOfText(rule) for rule in RULES]
STOPS += [samplers.EndOfText("reference", "leftmost"), samplers.EndOfText("reference", min_confidence=0.5)]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: f"{stop.rule}-{stop.choice}-{stop.min_confidence}")
@pytest.mark.parametrize("family", MODELS)
def test_equals_a_loop_that_truncates_the_sequence(family: str, stop: samplers.EndOfText) -> None:
    model, shorter = MODELS[family], 0
    for block, level in ((4, 0.5), (5, 0.7), (14, 0.6)):
        sampler = Filled(level).sampler(block, stop=stop)
        answers = dlm.generate(model, PROMPTS, sampler=sampler, max_new_tokens=14)
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            tokens, steps, forwards, fed = truncating(model, prompt, 14, block, stop, level)
            assert outcome(answer) == (tokens, steps, forwards)
            assert answer.counts.token_forwards == fed
            shorter += answer.counts.positions_cut
    assert shorter


@pytest.mark.parametrize(
    ("level", "stop", "ends"),
    [
        (0.85, samplers.EndOfText("accepted"), []),  # only position 0 is accepted, no end among it
        (0.85, samplers.EndOfText("reference"), []),  # the surest end is the last position: no change
        (0.85, samplers.EndOfText("reference", "leftmost"), [3]),
        (0.85, samplers.EndOfText("reference", "leftmost", 0.65), [5]),
        (0.55, samplers.EndOfText("accepted"), [3]),  # 0 and 2 are: (a, MASK, E)
        (0.55, samplers.EndOfText("reference"), [3]),
        (0.55, samplers.EndOfText("decoded"), [3]),
        (0.55, samplers.EndOfText("complete"), []),
    ],
)
def test_worked_example(level: float, stop: samplers.EndOfText, ends: list[int]) -> None:
    answer = decode(table_model(EXAMPLE), Filled(level).sampler(4, stop=stop), 8)
    assert answer.trace is not None
    first = answer.trace.steps[0]
    assert ([] if first.cut is None else [first.cut - 1]) == ends
    assert first.positions[0] == 1
    if ends == [3]:
        assert answer.tokens == [1, 2, END, *[END] * 5]
        assert answer.commit_step[3:] == [-1] * 5
        assert all(math.isnan(c) for c in answer.confidence[3:])
        assert answer.stop == "end_token"
        assert answer.counts.positions_cut == 5
        assert list(answer.trace.replay())[-1] == [0, *answer.tokens]
        assert first.filled == END


def test_the_end_may_become_another_token_when_it_was_only_predicted() -> None:
    """The published rule cuts behind a position that is still masked."""
    first = proposal_table([(1, 0.9), (END, 0.5), (2, 0.4), (3, 0.3)])
    later = proposal_table([(1, 0.9), (7, 0.8), (2, 0.4), (3, 0.3)])
    answer = decode(scripted_model([first, later]), samplers.topk(stop_at_end="reference"), 4)
    assert (answer.tokens, answer.commit_step) == ([1, 7, END, END], [0, 1, -1, -1])
    assert (answer.counts.forwards, answer.counts.positions_cut, answer.stop) == (2, 2, "end_token")
    assert decode(scripted_model([first, later]), samplers.topk(stop_at_end="decoded"), 4).tokens == [1, 7, 2, 3]


def test_progress_alone_is_no_reason_to_cut() -> None:
    """The surest position is an end, and the filter has not accepted it."""
    table = proposal_table([(1, 0.4), (END, 0.7), (2, 0.6), (3, 0.5)])
    kept, cut = (Filled(0.9).sampler(4, stop=samplers.EndOfText(rule)) for rule in ("accepted", "decoded"))
    assert decode(table_model(table), kept, 4).tokens == [1, END, 2, 3]
    assert decode(table_model(table), cut, 4).tokens == [1, END, END, END]
    # Another selector makes no difference between what it accepts and what is left to commit.
    other = samplers.threshold(0.9, stop_at_end="accepted")
    assert decode(table_model(table), other, 4).tokens == [1, END, END, END]


@pytest.mark.covering
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("policy", ["none", "prefix", "dual", "dkv_decode"])
@pytest.mark.parametrize("family", MODELS)
def test_rows_of_a_batch_are_cut_each_by_itself(family: str, policy: str, rule: Any) -> None:
    options = {
        "sampler": samplers.threshold(0.5, blocks=samplers.Fixed(6), precision="float64", stop_at_end=rule),
        "cache": getattr(cache, policy)(),
        "max_new_tokens": 15,
    }
    together = dlm.generate(MODELS[family], PROMPTS, batch_size=4, **options)
    waiting = dlm.generate(MODELS[family], PROMPTS, batch_size=2, **options)
    for i, prompt in enumerate(PROMPTS):
        (alone,) = dlm.generate(MODELS[family], [prompt], **options)
        assert outcome(alone) == outcome(together[i]) == outcome(waiting[i])
        assert alone.counts.token_forwards == together[i].counts.token_forwards
        assert alone.counts.positions_cut == waiting[i].counts.positions_cut
        assert MODELS[family].description.mask_id not in alone.tokens
        assert len(alone.tokens) == 15
    assert any(answer.counts.positions_cut for answer in together)


# Small canvases: windows that fit them.
SMALL = {
    "vicinity": cache.vicinity(3, 2, warmup=2),
    "window": cache.window(ahead=4),
    "adaptive": cache.adaptive(before=3, after=2, every_tokens=5),
    "recap": cache.recap(positions=3),
    "d2cache": cache.d2cache(masks=3, gap=2),
    "surelock": cache.surelock(bound=0.05),
    "dsb": cache.dsb(before=2, every_tokens=5),
    "elastic": cache.elastic(window=4),
    "delayed_prefix": cache.delayed_prefix(1, 4),
}
POLICIES = {name: getattr(cache, name)() for name in cache.PRESETS if name not in ("none", "block_causal")} | SMALL


@pytest.mark.covering
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("family", MODELS)
def test_every_cache_serves_a_shortened_row(family: str, policy: str) -> None:
    """After the cut a cache must feed and show no more than is left, also beside a row that is longer."""
    make = samplers.random if policy == "dkv_greedy" else samplers.threshold
    sampler = make(blocks=samplers.Fixed(8), stop_at_end="decoded")
    options = {"sampler": sampler, "cache": POLICIES[policy], "max_new_tokens": 15}
    together = dlm.generate(MODELS[family], PROMPTS, batch_size=3, **options)
    assert any(answer.counts.positions_cut for answer in together)
    for prompt, answer in zip(PROMPTS, together, strict=True):
        (alone,) = dlm.generate(MODELS[family], [prompt], **options)
        assert outcome(alone) == outcome(answer)
        assert alone.counts.token_forwards == answer.counts.token_forwards


@pytest.mark.parametrize("policy", ["none", "dual"])
@pytest.mark.parametrize("rule", RULES)
def test_a_model_that_never_predicts_the_end_is_decoded_as_without(rule: Any, policy: str) -> None:
    for family, model in MODELS.items():
        shared = {"max_new_tokens": 13, "cache": getattr(cache, policy)()}
        plain, watched = (
            dlm.generate(model, PROMPTS, sampler=samplers.threshold(0.5, ban_end=True, stop_at_end=s), **shared)
            for s in (False, rule)
        )
        assert [outcome(a) for a in plain] == [outcome(a) for a in watched], family
        assert [a.counts.token_forwards for a in plain] == [a.counts.token_forwards for a in watched]
        assert not any(a.counts.positions_cut for a in watched)
        assert {a.stop for a in watched} == {"filled"}
    assert samplers.threshold(0.5, stop_at_end=rule).stop == samplers.EndOfText(rule)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("preset", [*samplers.PRESETS])
def test_every_preset_takes_the_rule(preset: str) -> None:
    model, new = MODELS["llada"], 16
    own = {"learn2pd": {"filter": Filter.of_threshold(0.5, 16)}, "adablock": {"delimiters": [5]}}
    own["policy"] = {"policy": wild_policy()}
    for rule in RULES:
        sampler = getattr(samplers, preset)(stop_at_end=rule, **own.get(preset, {}))
        for answer in dlm.generate(model, PROMPTS[:2], sampler=sampler, max_new_tokens=new, record="commits"):
            assert len(answer.tokens) == new
            assert model.description.mask_id not in answer.tokens
            ends = [step.cut for step in answer.trace.steps if step.cut is not None]
            assert ends == sorted(set(ends), reverse=True)  # a row never grows again
            kept = ends[-1] - answer.trace.start if ends else new
            assert set(answer.tokens[kept:]) <= {model.description.eos_ids[0]}
            assert answer.commit_step[kept:] == [-1] * (new - kept)
            assert min(answer.commit_step[:kept]) >= 0
            assert list(answer.trace.replay())[-1] == answer.prompt_tokens + answer.tokens
            assert answer.counts.positions_cut <= new - kept


def test_what_was_committed_behind_the_end_is_taken_away_and_not_counted() -> None:
    table = proposal_table([(1, 0.5), (END, 0.8), (2, 0.9), (3, 0.4)])
    answer = decode(table_model(table), samplers.topk(stop_at_end="decoded"), 4)
    assert history(answer) == [({2}, set()), ({1}, set()), ({0}, set())]
    assert (answer.tokens, answer.commit_step) == ([1, END, END, END], [2, 1, -1, -1])
    assert answer.counts.positions_cut == 1  # position 3; position 2 had been paid for
    assert answer.counts.tokens == 1
    assert list(answer.trace.replay())[-1] == [0, *answer.tokens]
    block = decode(table_model(table), samplers.topk(stop_at_end=True, blocks=samplers.Fixed(2)), 4)
    assert (block.counts.positions_cut, block.counts.forwards) == (2, 2)


def test_given_tokens_are_never_cut_off() -> None:
    table = proposal_table([(1, 0.5), (END, 0.9), (2, 0.4), (3, 0.7), (4, 0.6), (5, 0.3)])
    model, sampler = table_model(table), samplers.topk(stop_at_end="decoded")
    pinned = dlm.generate(model, [[9]], sampler=sampler, max_new_tokens=6, pinned={3: 8})[0]
    assert pinned.tokens == [1, END, 2, 8, END, END]
    assert pinned.counts.positions_cut == 2
    mask = model.description.mask_id
    filled = dlm.infill(model, [[9, mask, mask, mask, 8, mask, mask]], sampler=sampler)[0]
    assert filled.tokens == [9, 1, END, 2, 8, END, END]


def test_schedules_go_on_as_they_were_planned() -> None:
    """Two positions a step, before a cut and after it, whether a budget counts positions or steps."""
    table = proposal_table([(1, 0.5), (2, 0.45), (3, 0.4), (4, 0.35), (5, 0.8), (END, 0.9), (6, 0.3), (7, 0.2)])
    for budget in ({"tokens_per_step": 2}, {"steps": 4}):
        sampler = samplers.topk(blocks=samplers.Fixed(8), stop_at_end="decoded", **budget)
        assert history(decode(table_model(table), sampler, 8)) == [({4, 5}, set()), ({0, 1}, set()), ({2, 3}, set())]


OTHERS = {
    "an early exit": ("dream", samplers.prophet(early=8.0, mid=8.0, late=8.0, blocks=samplers.Fixed(5))),
    "a fast phase": ("dream", samplers.slowfast(window=1, explore=2, low=0.1, high=0.7)),
    "a reviser": ("llada", samplers.wino(0.3, 0.5, blocks=samplers.Fixed(6))),
    "guidance": ("llada", samplers.threshold(0.7, guidance=0.5)),
    "look-ahead": ("dream", samplers.lopa()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_beside_parts_that_end_hide_or_take_back(name: str) -> None:
    family, plain = OTHERS[name]
    sampler, prompts = replace(plain, stop=samplers.EndOfText()), [*PROMPTS, [8, 8]]
    together = dlm.generate(MODELS[family], prompts, sampler=sampler, max_new_tokens=15, batch_size=5)
    assert any(answer.counts.positions_cut for answer in together)
    assert ("early_exit" in {answer.stop for answer in together}) == (name == "an early exit")
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=15)
        assert outcome(alone) == outcome(answer)
        assert MODELS[family].description.mask_id not in answer.tokens


@pytest.mark.parametrize(
    ("inputs", "gone"), [("masked_probability", 1.0), ("probability", 0.0), ("negative_entropy", 0.0)]
)
def test_what_a_filter_sees_of_a_block_that_was_cut(inputs: Any, gone: float) -> None:
    """The block stays as long as it was, and what is gone is committed; in the published inputs it is missing."""
    canvas = blank_canvas(6)
    blocks = replace(blocks_of(canvas), block_end=canvas.end - 2)
    canvas.shorten(canvas.end - 2)
    view = view_of([0.5] * 6)
    view = replace(
        view, canvas=canvas, blocks=blocks, proposal=replace(view.proposal, entropy=torch.full((1, 6), 0.25))
    )
    seen = block_inputs(view, inputs, 8, canvas.masked)[0]
    assert seen[:4].tolist() == [-0.25 if inputs == "negative_entropy" else 0.5] * 4
    assert seen[4:].tolist() == [gone, gone, 0.0, 0.0]


def test_a_filter_goes_on_after_a_cut_as_if_the_rest_were_committed() -> None:
    """It accepts position 0 once the last of four is sure, and nothing else."""
    rows = [[0.0, 0.0, 0.0, 10.0], *[[0.0] * 4] * 3]
    bias = torch.tensor([-9.5, -9.0, -9.0, -9.0])
    watching = Filter(torch.eye(4), torch.zeros(4), torch.tensor(rows), bias, "masked_probability", 0.5)
    table = proposal_table([(1, 0.2), (2, 0.3), (END, 0.9), (3, 0.4)])
    sampler = samplers.learn2pd(watching, blocks=samplers.Fixed(4), stop_at_end="decoded")
    assert history(decode(table_model(table), sampler, 4)) == [({2}, set()), ({0, 1}, set())]


def test_the_card_says_what_was_cut_away() -> None:
    answer = decode(table_model(EXAMPLE), samplers.topk(stop_at_end="decoded"), 8)
    for shown, answers in ((True, [answer]), (False, [decode(table_model(EXAMPLE), samplers.topk(), 8)])):
        console = Console(record=True, file=io.StringIO(), width=80)
        console.print(card(answers))
        assert ("cut away by a stop rule" in console.export_text()) == shown
    assert answer.as_dict()["counts"]["positions_cut"] == answer.counts.positions_cut > 0


def test_command_line() -> None:
    parts = dlm.compose(["sampler=learn2pd", "sampler.stop_at_end=reference"])
    assert parts.sampler.stop == samplers.EndOfText("reference")
    whole = "sampler.stop={_target_: samplers.EndOfText, rule: reference, choice: leftmost, min_confidence: 0.5}"
    assert dlm.compose([whole]).sampler.stop == samplers.EndOfText("reference", "leftmost", 0.5)
    assert dlm.compose(["sampler=parts", whole]).sampler.stop == samplers.EndOfText("reference", "leftmost", 0.5)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("policy", ["none", "dual"])
def test_drafts_of_a_row_that_is_cut_change_nothing(policy: str, rule: Any) -> None:
    """The cut is taken after every accepted step, so a drafted run ends where the other one does."""
    for family, model in MODELS.items():
        filled = Filled(0.6).sampler(6, stop=samplers.EndOfText(rule))
        for sampler in (filled, samplers.topk(blocks=samplers.Fixed(6), precision="float64", stop_at_end=rule)):
            options = {"sampler": sampler, "cache": getattr(cache, policy)(), "max_new_tokens": 12, "batch_size": 3}
            plain = dlm.generate(model, PROMPTS, **options)
            drafted = dlm.generate(model, PROMPTS, drafter=FreeDave(4), **options)
            for a, b in zip(plain, drafted, strict=True):
                assert (a.tokens, a.counts.positions_cut, a.stop) == (b.tokens, b.counts.positions_cut, b.stop), family
                assert b.counts.forwards <= a.counts.forwards
