"""What the loop does for the samplers that need more than a forward and a choice."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
import samplers
from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.no_cache import WholeRows
from dlm.engine.shadow import with_shadow
from dlm.engine.step import BlockState
from dlm.errors import PromptError
from dlm.models import LLaDAConfig, LLaDAModelLM
from tests.doubles import random_dream, random_llada, wrap
from tests.naive_decoder import answers_of

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK = MODELS["llada"].description.mask_id
PROMPTS = st.lists(st.integers(0, MASK - 1), min_size=1, max_size=8)


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=8)
@given(prompt=PROMPTS, new=st.integers(5, 9), after=st.integers(1, 4))
def test_an_early_exit_commits_everything_from_its_own_forward(
    family: str, prompt: list[int], new: int, after: int
) -> None:
    model = MODELS[family]
    # The gap that is needed is unreachable before the share of steps, and nothing from then on.
    stages = samplers.Stages(1e9, -1e9, -1e9, cuts=(after / new - 1e-9, 1.0))
    leave = samplers.AnswerGap(samplers.AnswerRegion(), stages)
    sampler = samplers.topk(blocks=samplers.Fixed(3), exit=leave, precision="float64")
    (answer,) = dlm.generate(model, [prompt], sampler=sampler, max_new_tokens=new, record="commits")
    (plain,) = dlm.generate(
        model, [prompt], sampler=samplers.topk(blocks=samplers.Fixed(3), precision="float64"), max_new_tokens=new
    )
    canvas = prompt + [t if s < after - 1 else MASK for t, s in zip(plain.tokens, plain.commit_step, strict=True)]
    tokens, _ = answers_of(model, canvas)
    expected = [t if c == MASK else c for c, t in zip(canvas, tokens, strict=True)]
    assert prompt + answer.tokens == expected
    assert (answer.counts.forwards, answer.stop) == (after, "early_exit")
    assert max(answer.commit_step) == after - 1
    assert answer.trace is not None
    assert list(answer.trace.replay())[-1] == expected


def shadow_setup(layers: int) -> tuple:
    torch.manual_seed(3)
    config = LLaDAConfig(
        d_model=32, n_layers=layers, n_heads=4, mlp_hidden_size=48, vocab_size=40, embedding_size=40,
        max_sequence_length=64, rope_theta=1000.0, mask_token_id=39, eos_token_id=38, pad_token_id=38,
    )  # fmt: skip
    model = wrap(LLaDAModelLM(config).double().eval())
    jobs = [
        Job(0, (1, 2, 3, 39, 5, 6, 39, 39), 2, tuple(range(2, 8)), 0),
        Job(1, (4, 7, 39, 8, 39), 1, tuple(range(1, 5)), 0),
    ]
    canvas = Canvas.of(jobs, 8, SpecialIds(39, (38,)), torch.device("cpu"))
    start, end = torch.tensor([2, 1]), torch.tensor([6, 5])
    zero = torch.zeros(2, dtype=torch.long)
    blocks = BlockState(zero, start, end, zero, zero, canvas.inside(start, end), zero, end)
    plan = WholeRows(0).feed(canvas.tokens, [8, 5], canvas.columns)
    return model.backbone, canvas, blocks, plan


def test_the_row_does_not_see_its_shadow() -> None:
    backbone, canvas, blocks, plan = shadow_setup(layers=3)
    shadowed = with_shadow(plan, canvas, blocks, 4)
    with torch.no_grad():
        plain = backbone.hidden(plan.tokens, plan.positions, plan.valid)
        both = backbone.hidden(shadowed.tokens, shadowed.positions, shadowed.valid)
    for row, end in enumerate((8, 5)):
        assert torch.allclose(plain[row, :end], both[row, :end], atol=1e-12)


def test_a_shadow_slot_does_not_see_its_own_token_and_sees_every_other() -> None:
    backbone, canvas, blocks, plan = shadow_setup(layers=1)  # in one layer nothing comes round another way
    with torch.no_grad():
        shadowed = with_shadow(plan, canvas, blocks, 4)
        before = backbone.hidden(shadowed.tokens, shadowed.positions, shadowed.valid)[0, 8:]
        for position in range(8):
            tokens = shadowed.tokens.clone()
            tokens[0, position] = 20
            after = backbone.hidden(tokens, shadowed.positions, shadowed.valid)[0, 8:]
            same = [torch.allclose(before[slot], after[slot], atol=1e-12) for slot in range(4)]
            assert same == [slot == position - 2 for slot in range(4)]


def test_attention_maps_belong_to_the_same_forward() -> None:
    backbone = MODELS["llada"].backbone
    tokens = torch.tensor([[1, 2, 3, MASK, MASK], [4, 5, MASK, 0, 0]])
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        hidden, attention = backbone.attentive(tokens, None, valid, last=1)
        assert torch.equal(hidden, backbone.hidden(tokens, None, valid))
    assert torch.allclose(attention.sum(dim=2), torch.ones(2, 5, dtype=attention.dtype))
    assert not attention[1, :, 3:].any()


def test_a_row_that_is_cut_off_counts_what_it_was_fed() -> None:
    sampler = samplers.slowfast(explore=1, window=1, deviation=9.0, low=0.01, high=0.999, precision="float64")
    prompts = [[1, 2], [3, 4, 5, 6]]
    for answer in dlm.generate(MODELS["llada"], prompts, sampler=sampler, max_new_tokens=12):
        whole = answer.counts.forwards * (len(answer.prompt_tokens) + 12)
        assert answer.counts.token_forwards <= whole
    short = samplers.slowfast(explore=2, window=2, low=0.9, high=0.99, precision="float64")
    fed = [a.counts for a in dlm.generate(MODELS["llada"], prompts, sampler=short, max_new_tokens=12)]
    assert any(c.token_forwards < c.forwards * (12 + 2) for c in fed)


def naive_lopa(
    model, prompt: list[int], new: int, block: int, threshold: float, k: int, ours: bool
) -> tuple[list[int], int]:
    """LoPA with Python lists, one branch at a time; returns tokens and positions fed."""
    canvas, fed = prompt + [MASK] * new, 0
    for start in range(len(prompt), len(canvas), block):
        end, candidates = min(start + block, len(canvas)), []
        while any(canvas[p] == MASK for p in range(start, end)):
            branches = []
            for extra in [None, *candidates]:
                tried = list(canvas)
                if extra is not None:
                    tried[extra[0]] = extra[1]
                tokens, probs = answers_of(model, tried)
                open_ = [p for p in range(start, end) if tried[p] == MASK]
                fed += len(canvas)
                if ours:
                    score = sum(probs[p] for p in open_) / len(open_) if open_ else -1.0
                else:
                    low = sorted(probs[p] for p in open_)[: max(1, len(open_) // 2)]
                    score = (extra[2] if extra else 1.0) / 2 + (sum(low) / len(low) if low else 1.0) / 2
                branches.append((score, tried, tokens, probs, open_))
            best = max(range(len(branches)), key=lambda i: (branches[i][0], -i if ours or i else -k - 1))
            _, tried, tokens, probs, open_ = branches[best] if branches[best][0] >= 0 else branches[0]
            sure = [p for p in open_ if probs[p] >= threshold]
            if not sure and open_ and (tried == canvas or (len(branches) > 1 and not ours)):
                sure = [max(open_, key=lambda p: (probs[p], -p))]
            canvas = [tokens[p] if p in sure else t for p, t in enumerate(tried)]
            rest = sorted((p for p in open_ if p not in sure), key=lambda p: (-probs[p], p))[:k]
            candidates = [(p, tokens[p], probs[p]) for p in rest]
    return canvas[len(prompt) :], fed


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=8)
@given(
    prompt=PROMPTS,
    new=st.integers(5, 9),
    threshold=st.sampled_from([0.3, 0.6, 0.9]),
    k=st.integers(1, 3),
    score=st.sampled_from(["published", "mean"]),
)
def test_look_ahead_equals_a_naive_loop(
    family: str, prompt: list[int], new: int, threshold: float, k: int, score: str
) -> None:
    blocks = samplers.Fixed(5)
    sampler = samplers.lopa(threshold, branches=k, branch_score=score, blocks=blocks, precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=new)
    tokens, fed = naive_lopa(MODELS[family], prompt, new, 5, threshold, k, score == "mean")
    assert (answer.tokens, answer.counts.token_forwards) == (tokens, fed)


def test_pinned_tokens_stay_where_they_are() -> None:
    options = {"sampler": samplers.threshold(0.3), "max_new_tokens": 8, "pinned": {2: 7, 5: 9}}
    for answer in dlm.generate(MODELS["llada"], [[1, 2], [3]], **options):
        assert (answer.tokens[2], answer.tokens[5]) == (7, 9)
        assert [s < 0 for s in answer.commit_step] == [i in (2, 5) for i in range(8)]
    model = dlm.load("tiny")
    (answer,) = dlm.generate(
        model, ["47+85="], sampler=samplers.prophet(answer_after="13"), max_new_tokens=16, pinned={0: "13"}
    )
    assert answer.text.startswith("13")


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({8: 1}, "positions 0 to 7"),
        ({-1: 1}, "positions 0 to 7"),
        ({0: MASK}, "no token id"),
        ({0: 999}, "no token id"),
        (dict.fromkeys(range(8), 1), "nothing is left"),
    ],
)
def test_bad_pins_are_refused(pinned: dict[int, int], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        dlm.generate(MODELS["llada"], [[1]], sampler=samplers.topk(), max_new_tokens=8, pinned=pinned)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_a_row_that_is_cut_off_does_not_exit(share: float) -> None:
    """Prophet over SlowFast: until the exit the run is the plain one, and everything it commits was seen."""
    leave = samplers.AnswerGap(thresholds=samplers.Stages(1e9, -1e9, -1e9, cuts=(share, 1.0)))
    options = {"explore": 2, "window": 2, "low": 0.9, "high": 0.99, "precision": "float64"}
    prompts = [[1, 2], [3, 4, 5, 6]]
    sampler = samplers.slowfast(exit=leave, **options)
    together = dlm.generate(MODELS["llada"], prompts, sampler=sampler, max_new_tokens=12)
    plain = dlm.generate(MODELS["llada"], prompts, sampler=samplers.slowfast(**options), max_new_tokens=12)
    for prompt, answer, base in zip(prompts, together, plain, strict=True):
        last = max(answer.commit_step)
        pairs = zip(answer.tokens, base.tokens, answer.commit_step, base.commit_step, strict=True)
        assert all((t, s) == (u, v) for t, u, s, v in pairs if min(s, v) < last)
        canvas = prompt + [t if s < last else MASK for t, s in zip(base.tokens, base.commit_step, strict=True)]
        assert prompt + answer.tokens == [
            t if c == MASK else c for c, t in zip(canvas, answers_of(MODELS["llada"], canvas)[0], strict=True)
        ]
