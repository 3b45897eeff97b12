"""Guidance from the row whose least sure tokens are masked again (A-CFG)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cache
import dlm
import samplers
from dlm.errors import SettingsError
from dlm.speculation import FreeDave
from tests.doubles import random_dream, random_llada
from tests.samplers.runs import outcome

MODELS = {"llada": random_llada(), "dream": random_dream()}
MASK, NEW = MODELS["llada"].description.mask_id, 9
PROMPTS = [[3, 1, 4], [7], [2, 2, 5, 5, 9, 9]]


def by_hand(model: Any, prompt: list[int], scale: float, share: float) -> tuple[list[int], list[int]]:
    """The published step, one token at a time: the row, its doubtful tokens masked again, the mix of the two."""
    shift, canvas, order = model.description.shift, [*prompt, *[MASK] * NEW], [0] * NEW

    def logits(row: list[int]) -> torch.Tensor:
        found: torch.Tensor = model.backbone.head(model.backbone.hidden(torch.tensor([row])))[0]
        return torch.cat([found[:1], found[:-1]]) if shift else found

    with torch.inference_mode():
        for step in range(NEW):
            c = logits(canvas)
            largest = c.softmax(dim=1).amax(dim=1).tolist()
            written = [p for p in range(len(prompt), len(canvas)) if canvas[p] != MASK]
            doubted = sorted(written, key=lambda p: largest[p])[: max(1, int(len(written) * share))]
            u = logits([MASK if p in doubted else token for p, token in enumerate(canvas)])
            probs = (u + (scale + 1) * (c - u)).softmax(dim=1)
            at = max((p for p in range(len(canvas)) if canvas[p] == MASK), key=lambda p: float(probs[p, :MASK].max()))
            canvas[at], order[at - len(prompt)] = int(probs[at, :MASK].argmax()), step
    return canvas[len(prompt) :], order


@pytest.mark.parametrize("family", MODELS)
@settings(max_examples=10, deadline=None)
@given(
    prompt=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    scale=st.sampled_from([0.5, 1.0, 2.0]),
    share=st.sampled_from([0.01, 0.3, 0.7, 1.0]),
)
def test_a_step_is_the_published_one(family: str, prompt: list[int], scale: float, share: float) -> None:
    sampler = samplers.topk(guidance=scale, guidance_remask=share, blocks=samplers.Whole(), precision="float64")
    (answer,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=NEW)
    assert (answer.tokens, answer.commit_step) == by_hand(MODELS[family], prompt, scale, share)
    assert answer.counts.forwards == 2 * NEW
    assert answer.counts.token_forwards == 2 * NEW * (len(prompt) + NEW)


@pytest.mark.parametrize("family", MODELS)
def test_a_row_is_alone(family: str) -> None:
    sampler = samplers.threshold(0.4, guidance=1.0, guidance_remask=0.5, temperature=0.5, blocks=samplers.Fixed(3))
    together = dlm.generate(MODELS[family], PROMPTS, sampler=sampler, max_new_tokens=NEW, batch_size=2)
    for index, (prompt, other) in enumerate(zip(PROMPTS, together, strict=True)):
        (alone,) = dlm.generate(MODELS[family], [prompt], sampler=sampler, max_new_tokens=NEW)
        assert outcome(other) == outcome(alone), index


def test_what_it_does_not_go_with() -> None:
    sampler, model = samplers.topk(guidance=1.0, guidance_remask=0.3), MODELS["llada"]
    with pytest.raises(SettingsError, match=r"masks other tokens at every step.*use cache=none"):
        dlm.generate(model, [[1]], sampler=sampler, cache=cache.dual(), max_new_tokens=4)
    with pytest.raises(SettingsError, match="drafting=freedave does not go with guidance_remask"):
        dlm.generate(model, [[1]], sampler=sampler, drafter=FreeDave(2), max_new_tokens=4)
    with pytest.raises(SettingsError, match="guidance_remask says what guidance is from: give guidance too"):
        samplers.topk(guidance_remask=0.3)
    with pytest.raises(SettingsError, match=r"guidance_remask is a share and must be in \[0, 1\], got 1.5"):
        samplers.topk(guidance=1.0, guidance_remask=1.5)
    for other in (samplers.wino, samplers.dawn):
        with pytest.raises(SettingsError, match="guidance_remask takes two forwards"):
            other(guidance=1.0, guidance_remask=0.3)
