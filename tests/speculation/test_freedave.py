"""FreeDave changes nothing but the number of forwards (arXiv 2510.00294)."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from dlm.cli import main
from dlm.errors import SettingsError
from dlm.speculation import FreeDave, cost_model, freedave
from dlm.speculation.cost_model import CostModel, TimingCurve
from dlm.speculation.draft_length import DraftLengthController
from dlm.speculation.drafting import DraftingStepper
from tests.cache.test_block_causal import block_causal
from tests.doubles import StatefulBackbone, proposal_table, random_dream, random_llada, table_model, wrap
from tests.test_decoder import preset

FAMILIES = {"llada": random_llada(), "dream": random_dream()}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [3, 4, 5, 9, 9, 9, 9, 2, 2, 2, 4], [1, 2]]
CACHES: dict[str, Any] = {
    "none": None,
    "prefix": cache.prefix(),
    "dual": cache.dual(),
    "dual_every": cache.dual(every=3),
    "dkv_decode": cache.dkv_decode(interval=5),
    "dkv_reference": cache.dkv_decode(5, "reference"),
    "dkv_prefill": cache.dkv_prefill(),
    "dkv_pd": cache.dkv_pd(interval=3),
    "freecache": cache.freecache(),
    "vicinity": cache.vicinity(2, 2, warmup=1, every=5),
    "window": cache.window(ahead=4),
    "window_dkv": cache.window(cache.dkv_decode(interval=5), ahead=4),
}
# Where a block begins without anything being recomputed for its sake.
CROSSED = ["none", "dkv_decode", "dkv_prefill", "dkv_pd", "freecache", "window_dkv"]
# Every preset whose next state follows from the present one alone.
SAMPLERS = [
    "topk", "margin", "entropy", "random", "threshold", "factor", "frechet", "entropy_threshold", "localleap", "eb",
    "pc", "certainty_prior", "eoser", "ass", "adablock", "dimple", "ccd", "dream_origin", "dream_entropy",
    "dream_maskgit_plus", "learn2pd", "policy", "overlap",
]  # fmt: skip
REFUSED = {
    "credit": "a logit transform with a memory",
    "prophet": "an early exit",
    "sched": "an early exit",
    "klass": "reads the previous forward",
    "wino": "shadow block",
    "dawn": "attention",
    "lopa": "look-ahead branches",
    "verified": "look-ahead branches",
    "saber": "a reviser",
    "slowfast": "cuts rows off",
}


def run(model: Any, sampler: Any, policy: Any, how: FreeDave | int | None, **options: Any) -> list[dlm.Generation]:
    drafter = FreeDave(how) if isinstance(how, int) else how
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
        assert sum(n * times for n, times in enumerate(b.counts.acceptance)) == b.counts.accepted_drafts
        assert sum(b.counts.acceptance) <= b.counts.forwards
        assert max(b.commit_step) < b.counts.forwards


@pytest.mark.covering
@pytest.mark.parametrize("policy", ["none", "dual", "dkv_decode"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_lossless_with_every_sampler(name: str, policy: str) -> None:
    sampler = preset(name)
    for model in FAMILIES.values():
        plain = run(model, sampler, CACHES[policy], None)
        lossless(plain, run(model, sampler, CACHES[policy], 4), 4)
        if policy in CROSSED:
            lossless(plain, run(model, sampler, CACHES[policy], FreeDave(5, acceptance="eager")), 5)


@pytest.mark.covering
@pytest.mark.parametrize("layout", ["batch", "tree"])
@pytest.mark.parametrize("policy", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_lossless_with_every_cache(family: str, policy: str, layout: Any) -> None:
    model, saved = FAMILIES[family], 0
    for sampler in (samplers.topk(blocks=samplers.Fixed(6)), samplers.threshold(0.2, blocks=samplers.Fixed(8))):
        plain = run(model, sampler, CACHES[policy], None, max_new_tokens=16)
        for how in (FreeDave(4, layout), FreeDave(3, layout, sources=3)):
            drafted = run(model, sampler, CACHES[policy], how, max_new_tokens=16)
            lossless(plain, drafted, how.draft_length)
            saved += sum(a.counts.accepted_drafts for a in drafted)
    assert saved > 0


@pytest.mark.covering
@pytest.mark.parametrize("layout", ["batch", "tree"])
@pytest.mark.parametrize("policy", CROSSED)
@pytest.mark.parametrize("family", FAMILIES)
def test_lossless_over_the_borders_of_blocks(family: str, policy: str, layout: Any) -> None:
    """Eager acceptance; in standard one the small blocks leave nothing to save."""
    model, saved = FAMILIES[family], 0
    for sampler in (samplers.topk(blocks=samplers.Fixed(2)), samplers.threshold(0.2, blocks=samplers.Fixed(3))):
        plain = run(model, sampler, CACHES[policy], None, max_new_tokens=16)
        for sources in (1, 2):
            drafted = run(model, sampler, CACHES[policy], FreeDave(6, layout, "eager", sources), max_new_tokens=16)
            lossless(plain, drafted, 6)
            saved += sum(a.counts.accepted_drafts for a in drafted)
    assert saved > 0


@pytest.mark.covering
@pytest.mark.parametrize("length", [2, 4])
@pytest.mark.parametrize("acceptance", ["standard", "eager"])
@pytest.mark.parametrize("layout", ["batch", "tree"])
def test_lossless_with_block_causal_attention(layout: Any, acceptance: Any, length: int) -> None:
    """The sampler's blocks are those of the attention, or lie inside them."""
    for family in (random_llada, random_dream):
        model = block_causal(family.__name__.removeprefix("random_"), 4)
        for policy in (cache.none(), cache.block_causal()):
            for sampler in (
                samplers.topk(blocks=samplers.Fixed(length)), samplers.threshold(0.3, blocks=samplers.Fixed(length))
            ):  # fmt: skip
                plain = run(model, sampler, policy, None, max_new_tokens=11)
                lossless(plain, run(model, sampler, policy, FreeDave(5, layout, acceptance), max_new_tokens=11), 5)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_lossless_whatever_the_batch_the_blocks_and_the_length(data: Any) -> None:
    model = FAMILIES[data.draw(st.sampled_from(sorted(FAMILIES)))]
    name = data.draw(st.sampled_from(["topk", "margin", "random", "threshold", "eb", "adablock"]))
    kept = data.draw(st.sampled_from([name for name in CACHES if "window" not in name]))
    policy = CACHES[kept]
    new = data.draw(st.integers(3, 14))
    options: dict[str, Any] = {} if name == "adablock" else {"blocks": samplers.Fixed(data.draw(st.integers(1, new)))}
    options["temperature"] = data.draw(st.sampled_from([0.0, 0.8]))
    sampler = preset(name, **options)
    prompts = data.draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=9), min_size=1, max_size=4))
    how = FreeDave(
        data.draw(st.integers(1, 9)),
        data.draw(st.sampled_from(["batch", "tree"])),
        data.draw(st.sampled_from(["standard", "eager"])) if kept in CROSSED else "standard",
        data.draw(st.integers(1, 3)),
    )
    size = data.draw(st.integers(1, 3))
    plain = run(model, sampler, policy, None, prompts=prompts, max_new_tokens=new, batch_size=size)
    drafted = run(model, sampler, policy, how, prompts=prompts, max_new_tokens=new, batch_size=size)
    lossless(plain, drafted, how.draft_length)
    for prompt, answer in zip(prompts, drafted, strict=True):
        if prompts.count(prompt) > 1:  # a copy draws from its own stream
            continue
        (alone,) = run(model, sampler, policy, how, prompts=[prompt], max_new_tokens=new)
        assert alone.tokens == answer.tokens
        assert alone.commit_step == answer.commit_step
        assert alone.counts.forwards == answer.counts.forwards
        assert alone.counts.token_forwards == answer.counts.token_forwards
        assert alone.counts.acceptance == answer.counts.acceptance


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


# Tokens and confidences of a block of four, by what is filled already ("-" is filled).
TRAP = {
    "____": ("abcd", [0.8, 0.9, 0.6, 0.7]),
    "_b__": ("a-cd", [0.85, 0, 0.5, 0.6]),
    "ab__": ("--ed", [0, 0, 0.75, 0.7]),
    "ab_d": ("--c-", [0, 0, 0.9, 0]),
    "abe_": ("---d", [0, 0, 0, 0.9]),
}
# The same for a threshold of 0.9 (1.16 C): drafts that hold a part of a step must not count.
PARTIAL = {
    "____": ("abcd", [0.95, 0.92, 0.5, 0.4]),
    "ab__": ("--ce", [0, 0, 0.93, 0.95]),
    "abc_": ("---z", [0, 0, 0, 0.99]),
    "ab_e": ("--c-", [0, 0, 0.93, 0]),
}
# And for a step that commits what two drafts do between them: it arrives at the second one.
SKIPPED = {
    "____": ("abcd", [0.95, 0.5, 0.4, 0.3]),
    "a___": ("-bcd", [0, 0.95, 0.92, 0.3]),
    "ab__": ("--ce", [0, 0, 0.5, 0.6]),
    "abc_": ("---d", [0, 0, 0, 0.9]),
}
LETTERS = "abcdez"


def told(states: dict[str, tuple[str, list[float]]]) -> Any:
    """A model that says of each state what the table says; the letters are ids 1, 2, ..."""
    tables = {}
    for state, (letters, confidences) in states.items():
        filled = frozenset(place for place, letter in enumerate(state) if letter != "_")
        tables[filled] = proposal_table(
            [(1 + LETTERS.find(letter), confidence) if letter != "-" else (1, 0.5)
             for letter, confidence in zip(letters, confidences, strict=True)]
        )  # fmt: skip
    return wrap(StatefulBackbone(tables))


@pytest.mark.parametrize(("length", "forwards"), [(1, 4), (2, 3), (3, 3), (4, 3)])
def test_a_match_off_the_path_proves_nothing(length: int, forwards: int) -> None:
    """At length 4 a third draft agrees with a fourth, but was itself not reached: counting matches ends in abcd."""
    sampler = samplers.topk(blocks=samplers.Fixed(4))
    (answer,) = run(told(TRAP), sampler, None, length, prompts=[[0]], max_new_tokens=4)
    assert "".join(LETTERS[t - 1] for t in answer.tokens) == "abed"
    assert answer.counts.forwards == forwards


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_part_of_a_step_is_no_state(length: int) -> None:
    sampler = samplers.threshold(0.9, blocks=samplers.Fixed(4))
    (answer,) = run(told(PARTIAL), sampler, None, length, prompts=[[0]], max_new_tokens=4)
    assert "".join(LETTERS[t - 1] for t in answer.tokens) == "abce"
    assert answer.counts.forwards == 2


@pytest.mark.parametrize("chooser", [samplers.threshold, samplers.sdar])
@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_step_may_skip_a_draft(length: int, chooser: Any) -> None:
    """Where a step depends on what the row holds, and not on how many there were."""
    sampler = chooser(threshold=0.9, blocks=samplers.Fixed(4))
    (answer,) = run(told(SKIPPED), sampler, None, length, prompts=[[0]], max_new_tokens=4)
    assert "".join(LETTERS[t - 1] for t in answer.tokens) == "abcd"
    assert answer.counts.forwards == (3 if length == 1 else 2)
    assert answer.counts.accepted_drafts == 3 - answer.counts.forwards


def test_subset_acceptance_takes_a_part_of_a_step() -> None:
    """The draft "abc" holds a part of "abce", which the step from "ab" commits: its own answer decides the rest."""
    sampler = samplers.threshold(0.9, blocks=samplers.Fixed(4))
    (answer,) = run(told(PARTIAL), sampler, None, FreeDave(4, acceptance="subset"), prompts=[[0]], max_new_tokens=4)
    assert "".join(LETTERS[t - 1] for t in answer.tokens) == "abcz"
    assert (answer.counts.forwards, answer.counts.accepted_drafts) == (2, 1)
    assert answer.commit_step == [0, 0, 1, 1]


def test_values_acceptance_asks_for_tokens_alone() -> None:
    """From "ab" the step takes "e" alone, but its answers propose the "c" of the draft "abc" as well, whose own say
    "z"."""
    sampler = samplers.threshold(0.94, blocks=samplers.Fixed(4))
    model = told({**PARTIAL, "____": ("abcd", [0.95, 0.96, 0.5, 0.4])})
    found = {}
    for acceptance in ("standard", "subset", "values"):
        (answer,) = run(model, sampler, None, FreeDave(4, acceptance=acceptance), prompts=[[0]], max_new_tokens=4)
        found[acceptance] = "".join(LETTERS[t - 1] for t in answer.tokens), answer.counts.forwards
    assert found == {"standard": ("abce", 3), "subset": ("abce", 3), "values": ("abcz", 2)}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    length=st.integers(2, 6),
    tau=st.sampled_from([0.1, 0.3, 0.5, 1.0]),
    acceptance=st.sampled_from(["subset", "values"]),
)
def test_partial_acceptance_is_a_plain_loop(seed: int, length: int, tau: float, acceptance: Any) -> None:
    """Against the rule, step by step: from each state reached to the last draft that its step's outcome contains, or to
    the next one for as long as its answers propose all of it."""
    model, mask, new = FAMILIES["llada"], FAMILIES["llada"].description.mask_id, 8
    prompt = [seed % 31, seed // 31 % 31, seed // 961 % 31]

    def answers(tokens: list[int]) -> tuple[list[int], list[float]]:
        logits = model.backbone.head(model.backbone.hidden(torch.tensor([tokens]))[0]).double()
        share = logits.softmax(dim=1)
        logits[:, [mask, *range(model.description.valid_vocab, logits.shape[1])]] = -torch.inf
        best = logits.argmax(dim=1)
        return best.tolist(), share.gather(1, best[:, None])[:, 0].tolist()

    def step(tokens: list[int], told: tuple[list[int], list[float]]) -> list[int]:
        open_ = [i for i, t in enumerate(tokens) if t == mask]
        chosen = [i for i in open_ if told[1][i] >= tau] or [max(open_, key=lambda i: (told[1][i], -i))]
        return [told[0][i] if i in chosen else t for i, t in enumerate(tokens)]

    state, drafts, forwards = prompt + [mask] * new, [], 0
    while mask in state:
        states, forwards = [state, *drafts], forwards + 1
        told, at = [answers(s) for s in states], 0
        while True:
            made = step(states[at], told[at])
            outcome = told[at][0] if acceptance == "values" else made
            last = len(states) if acceptance == "subset" else min(at + 2, len(states))
            allowed = [(mask, *pair) for pair in zip(outcome, states[at], strict=True)]
            onward = [j for j in range(at + 1, last) if all(map(tuple.__contains__, allowed, states[j]))]
            if not onward:
                break
            at = onward[-1]
        state, drafts, draft = made, [], made
        for _ in range(length - 1):
            draft = step(draft, told[at]) if mask in draft else draft
            if mask not in draft:
                break
            drafts.append(draft)
    sampler, how = (
        samplers.threshold(tau, blocks=samplers.Whole(), precision="float64"),
        FreeDave(length, acceptance=acceptance),
    )
    if tau == 1.0 and acceptance == "values":
        sampler = samplers.topk(blocks=samplers.Whole(), precision="float64")
    prompts = [prompt, [4, 5]]
    answer, _ = run(model, sampler, None, how, prompts=prompts, max_new_tokens=new, batch_size=2)
    assert (prompt + answer.tokens, answer.counts.forwards) == (state, forwards)
    (alone,) = run(model, sampler, None, how, prompts=[prompt], max_new_tokens=new)
    assert (alone.tokens, alone.commit_step) == (answer.tokens, answer.commit_step)


@pytest.mark.parametrize(
    "sampler", [samplers.topk(), samplers.threshold(temperature=0.5), samplers.adablock(delimiters=[3])]
)
def test_subset_acceptance_is_for_rules_that_are_sure(sampler: Any) -> None:
    with pytest.raises(SettingsError, match="commit what they are sure of at temperature 0"):
        run(FAMILIES["llada"], sampler, None, FreeDave(4, acceptance="subset"))
    for policy in (cache.dkv_decode(), cache.freecache()):
        with pytest.raises(SettingsError, match="and cache=none, dual, prefix or block_causal"):
            run(FAMILIES["llada"], samplers.threshold(), policy, FreeDave(4, acceptance="subset"))


def test_equal_confidences_are_taken_in_order() -> None:
    """Every guess holds when all are equal."""
    model = table_model([[0.5, 0.5]] * 5)
    sampler = samplers.topk(blocks=samplers.Fixed(4))
    (answer,) = run(model, sampler, None, 4, prompts=[[1]], max_new_tokens=4)
    assert answer.counts.forwards == 2


def far_sighted(right_from: dict[int, int]) -> Any:
    """Ten positions filled from the left. In state i the model is right about the positions before ``right_from[i]``,
    and about position i in any case."""
    tables = {}
    for state in range(10):
        reach = max(right_from.get(state, 0), state + 1)
        tables[frozenset(range(state))] = proposal_table(
            [(1 if place < reach else 2, 0.95 - 0.05 * place) for place in range(10)]
        )
    return wrap(StatefulBackbone(tables))


def test_the_fewest_forwards_are_not_what_a_greedy_chain_takes() -> None:
    """From state 0 drafts hold up to 3, from 2 up to 10, from every other one state. Who stops at 2 needs
    3 forwards; who always goes as far as it is certain needs 8. Answers to more than one state find the way back."""
    model, sampler = far_sighted({0: 3, 2: 10}), samplers.topk(blocks=samplers.Fixed(10))
    counts = {}
    for sources in (1, 2, 3):
        how = FreeDave(8, sources=sources)
        (answer,) = run(model, sampler, None, how, prompts=[[0]], max_new_tokens=10)
        assert answer.tokens == [1] * 10
        counts[sources] = answer.counts.forwards
    assert counts == {1: 8, 2: 3, 3: 3}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), length=st.integers(2, 8), sources=st.integers(1, 3))
def test_a_forward_accepts_all_it_certifies(seed: int, length: int, sources: int) -> None:
    """A forward goes on from every state that it has evaluated as what follows the one before."""
    prompt = [seed % 31, seed // 31 % 31, seed // 961 % 31]
    sampler = samplers.topk(blocks=samplers.Fixed(10))
    evaluated: list[tuple[list[tuple[int, ...]], list[int]]] = []
    number = DraftingStepper._branches

    def listen(self: DraftingStepper, turn: Any, drafts: Any) -> Any:
        versions = number(self, turn, drafts)
        evaluated.append(([tuple(row) for row in versions.canvas.tokens[:, :-1].tolist()], versions.parent.tolist()))
        return versions

    def states_of(drafter: FreeDave | None) -> list[tuple[int, ...]]:
        (answer,) = run(
            FAMILIES["llada"], sampler, None, drafter, prompts=[prompt], max_new_tokens=10, record="commits"
        )
        assert answer.trace is not None
        return [tuple(row) for row in answer.trace.replay()]

    states = states_of(None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DraftingStepper, "_branches", listen)
        reached = states_of(FreeDave(length, sources=sources))
    assert set(reached) <= set(states)
    for tokens, parents in evaluated:
        follows = dict(itertools.pairwise(states))
        certified = {0}
        for branch, parent in enumerate(parents):
            if parent in certified and tokens[branch] == follows.get(tokens[parent]):
                certified.add(branch)
        stop = reached[reached.index(tokens[0]) + 1]
        assert stop not in {tokens[branch] for branch in certified}


@pytest.mark.parametrize("policy", [cache.none(), cache.block_causal()])
def test_eager_acceptance_saves_what_small_blocks_do_not(policy: Any) -> None:
    """Block-causal, two blocks of two, every guess holds: published 6, 6 and 4 forwards. We store a
    finished block with the next forward, or with the one that accepted it: 4, 4 and 2."""
    model = block_causal("llada", 2)
    model.backbone.head = lambda rows: torch.zeros(*rows.shape[:-1], model.description.vocab_size, dtype=rows.dtype)
    sampler = samplers.topk(blocks=samplers.Fixed(2))
    forwards = [
        run(model, sampler, policy, how, prompts=[[1, 2]], max_new_tokens=4)[0].counts.forwards
        for how in (None, FreeDave(4), FreeDave(4, acceptance="eager"))
    ]
    assert forwards == [4, 4, 2]


@pytest.mark.covering
@pytest.mark.parametrize("acceptance", ["standard", "eager"])
@pytest.mark.parametrize("rule", [True, "decoded", "complete", "reached", "accepted", "reference"])
def test_rows_that_end_early_end_where_they_would(rule: Any, acceptance: Any) -> None:
    """Spec T9: whatever lies behind the end was drafted; and rows of a batch go on for different numbers of steps."""
    ended = 0
    for build in (random_llada, random_dream):
        model, sampler = build(), samplers.topk(blocks=samplers.Fixed(6))
        common = Counter(t for a in run(model, sampler, None, None, max_new_tokens=18) for t in a.tokens)
        for end, _ in common.most_common(2):
            model.description = model.backbone.description = replace(model.description, eos_ids=(end,))
            sampler = samplers.topk(blocks=samplers.Fixed(6), stop_at_end=rule)
            for policy in (None, cache.freecache()):
                plain = run(model, sampler, policy, None, max_new_tokens=18)
                drafted = run(model, sampler, policy, FreeDave(5, acceptance=acceptance), max_new_tokens=18)
                lossless(plain, drafted, 5)
                assert [a.counts.positions_cut for a in drafted] == [a.counts.positions_cut for a in plain]
                ended += sum(a.stop == "end_token" for a in plain)
    assert ended > 0


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
    with pytest.raises(SettingsError, match="draft_length must be a whole number"):
        FreeDave(length)


@pytest.mark.parametrize("name", REFUSED)
def test_samplers_whose_step_needs_more_than_its_state(name: str) -> None:
    with pytest.raises(SettingsError, match=f"drafting=freedave does not go with .*{REFUSED[name]}"):
        run(FAMILIES["llada"], preset(name), None, 4)


@pytest.mark.parametrize("name", ["dllm", "sparse", "entropy", "adaptive", "recap", "d2cache", "surelock", "elastic"])
def test_caches_whose_steps_depend_on_answers(name: str) -> None:
    with pytest.raises(SettingsError, match="depends on the answers to the step before, which drafts only guess; use"):
        run(FAMILIES["llada"], samplers.topk(), getattr(cache, name)(), 4)


@pytest.mark.parametrize("policy", [cache.prefix(), cache.dual(), cache.vicinity(2, 2), cache.window(ahead=4)])
def test_caches_that_begin_a_block_anew_are_not_crossed(policy: Any) -> None:
    with pytest.raises(
        SettingsError, match=r"acceptance=eager drafts over the border of a block, .* acceptance=standard"
    ):
        run(FAMILIES["llada"], samplers.topk(), policy, FreeDave(4, acceptance="eager"))


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"layout": "row"}, "layout must be 'batch' or 'tree', got 'row'"),
        ({"acceptance": "lazy"}, "acceptance must be 'standard', 'eager', 'subset' or 'values', got 'lazy'"),
        ({"sources": 0}, "sources must be a whole number of at least 1, got 0"),
        ({"draft_length": "long"}, "draft_length must be a whole number or 'auto', got 'long'"),
    ],
)
def test_settings_that_are_none(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        FreeDave(**settings_)


@pytest.mark.parametrize("layout", ["batch", "tree"])
@pytest.mark.parametrize("policy", ["none", "dual", "dkv_decode", "freecache"])
def test_guidance(policy: str, layout: Any) -> None:
    sampler = samplers.topk(guidance=1.0, blocks=samplers.Fixed(6))
    for model in FAMILIES.values():
        plain, drafted = (run(model, sampler, CACHES[policy], how) for how in (None, FreeDave(4, layout)))
        for a, b in zip(plain, drafted, strict=True):
            assert a.tokens == b.tokens
            assert b.counts.forwards + 2 * b.counts.accepted_drafts == a.counts.forwards


class Clockwork:
    """A machine whose forwards take what a formula says, whatever they really take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: Any) -> None:
        self.lengths: list[int] = []
        timed = DraftLengthController.timed

        def tick(pace: DraftLengthController, load: Any, versions: int, forward: float, rest: float = 0.0) -> None:
            self.lengths.append(versions)
            timed(pace, load, versions, seconds(versions), 0.0)

        machine = CostModel(TimingCurve((1, 2), (seconds(1), seconds(1))), TimingCurve((1, 2), (1e-9, 1e-9)))
        monkeypatch.setattr(freedave, "measured", lambda *_: machine)
        monkeypatch.setattr(DraftLengthController, "timed", tick)


def test_auto_drafts_where_positions_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every guess holds, and a forward takes as long with 16 versions as with one."""
    blocks = Clockwork(monkeypatch, lambda versions: 1.0)
    model = table_model([[0.9 - 0.001 * i, 0.1 + 0.001 * i] for i in range(300)])
    sampler = samplers.topk(blocks=samplers.Fixed(299))
    (plain,) = run(model, sampler, None, None, prompts=[[1]], max_new_tokens=299)
    (answer,) = run(model, sampler, None, FreeDave("auto"), prompts=[[1]], max_new_tokens=299)
    lossless([plain], [answer], 16)
    assert max(blocks.lengths) == 16
    assert answer.counts.forwards < 299 / 3


def test_auto_leaves_drafting_where_every_position_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = Clockwork(monkeypatch, lambda versions: float(versions))
    sampler = samplers.topk(blocks=samplers.Fixed(60))
    plain = run(FAMILIES["llada"], sampler, None, None, max_new_tokens=60, batch_size=1)
    answers = run(FAMILIES["llada"], sampler, None, FreeDave("auto"), max_new_tokens=60, batch_size=1)
    lossless(plain, answers, 16)
    assert sum(blocks.lengths) <= 1.05 * sum(a.counts.forwards for a in plain)


def test_auto_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cost_model, "_known", {})
    arguments = ["generate", "prompt=47+85=", "sampler=topk", "max_new_tokens=32", "format=json"]
    assert main([*arguments, "drafting=freedave", "drafting.draft_length=auto", "drafting.layout=tree"]) == 0
    drafted = json.loads(capsys.readouterr().out)
    assert drafted["counts"]["forwards"] + drafted["counts"]["accepted_drafts"] == 32
    assert cost_model._known  # measured; written down only where nothing disturbed it (test_cost_model)
