"""The overlap bound against its rule in plain Python, and by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
import samplers
from dlm.errors import SettingsError
from tests.doubles import random_llada, table_model
from tests.naive_decoder import naive_logits

MODEL = random_llada()
MASK = MODEL.description.mask_id


def naive(prompt: list[int], new: int, block: int, gamma: float) -> tuple[list[int], list[int], int]:
    """Tokens, commit steps and forwards."""
    canvas, steps, forwards = prompt + [MASK] * new, [-1] * new, 0
    for start in range(len(prompt), len(canvas), block):
        places = range(start, min(start + block, len(canvas)))
        while open_ := [p for p in places if canvas[p] == MASK]:
            with torch.no_grad():
                probs = naive_logits(MODEL, canvas).softmax(-1)
            entropy = torch.special.entr(probs).sum(-1).tolist()
            probs[:, MASK] = -1.0
            top = {p: probs[p].topk(5) for p in open_}
            best = {p: dict(zip(x.indices.tolist(), x.values.tolist(), strict=True)) for p, x in top.items()}
            taken, spent = [], 0.0
            for p in sorted(open_, key=lambda p: (entropy[p], p)):
                due = 0.0
                for q in taken:
                    overlap = sum(min(share, best[q].get(token, 0.0)) for token, share in best[p].items())
                    due += overlap * min(entropy[p], entropy[q])
                cost = min(due, entropy[p])
                if spent + cost <= gamma:
                    taken, spent = [*taken, p], spent + cost
            for p in taken:
                canvas[p], steps[p - len(prompt)] = next(iter(best[p])), forwards
            forwards += 1
    return canvas[len(prompt) :], steps, forwards


@settings(max_examples=25)
@given(
    prompt=st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6),
    new=st.integers(2, 10),
    block=st.integers(1, 8),
    gamma=st.sampled_from([0.0, 0.1, 0.5, 2.0]),
)
def test_it_equals_a_naive_loop(prompt: list[int], new: int, block: int, gamma: float) -> None:
    block = min(block, new)
    sampler = samplers.overlap(gamma, blocks=samplers.Fixed(block), precision="float64")
    (answer,) = dlm.generate(MODEL, [prompt], sampler=sampler, max_new_tokens=new)
    assert (answer.tokens, answer.commit_step, answer.counts.forwards) == naive(prompt, new, block, gamma)


def test_what_shares_nothing_costs_nothing() -> None:
    """Two pairs of positions over two tokens each: one of each pair goes at once, the pairs do not wait for each
    other; ``eb`` goes one by one."""
    table = [[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]
    steps = [
        dlm.generate(table_model(table), [[0]], sampler=sampler, max_new_tokens=4)[0].commit_step
        for sampler in (samplers.overlap(), samplers.overlap(most=1), samplers.eb())
    ]
    assert steps == [[0, 1, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]


@pytest.mark.parametrize(("settings_", "says"), [({"gamma": -1.0}, "gamma must be 0"), ({"most": 0}, "at least 1")])
def test_bad_settings_are_refused(settings_: dict, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        samplers.overlap(**settings_)
