"""Steps of fixed shape: tokens, counts and traces of ordinary ones; what has none is refused before a model loads."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.engine.static import StaticSteps
from dlm.errors import NumericsError, SettingsError
from dlm.speculation import FreeDave
from tests.doubles import random_dream, random_llada

CACHES = {
    "none": None, "dual": cache.dual(), "every": cache.dual(every=3), "prefix": cache.prefix(),
    "vicinity": cache.vicinity(2, 2, 1), "dkv_prefill": cache.dkv_prefill(),
}  # fmt: skip
BLOCKS = samplers.Fixed(6)
SAMPLERS = {
    "threshold": samplers.threshold(0.9, blocks=BLOCKS), "drawn": samplers.topk(temperature=0.7, blocks=BLOCKS),
    "guided": samplers.topk(tokens_per_step=2, guidance=1.0, blocks=BLOCKS), "wino": samplers.wino(blocks=BLOCKS),
    "credit": samplers.credit(blocks=BLOCKS), "remdm": samplers.remdm(blocks=BLOCKS),
}  # fmt: skip
PROMPTS = [[*range(1, n)] for n in (9, 4, 12, 3, 7)]


def decoded(model: Any, **options: Any) -> list[Any]:
    answers = dlm.generate(model, PROMPTS, **{"max_new_tokens": 15, "batch_size": 3, "record": "order"} | options)
    return [
        (a.tokens, a.commit_step, a.counts.forwards, a.counts.token_forwards, list(a.trace.replay())) for a in answers
    ]


def static(model: Any) -> Any:
    model.backbone.graphs = True
    return model


@pytest.mark.covering
@pytest.mark.parametrize("policy", CACHES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_static_steps_are_ordinary_ones(sampler: str, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = random_dream if sampler in ("threshold", "guided") else random_llada
    options = {"sampler": SAMPLERS[sampler], "cache": CACHES[policy]}
    taken = []
    take = StaticSteps.take
    monkeypatch.setattr(StaticSteps, "take", lambda self, width: (taken.append(width), take(self, width))[1])
    wanted = decoded(family(), **options)
    assert not taken
    assert decoded(static(family()), **options) == wanted
    assert len(taken) >= 3
    assert decoded(static(family()), **{**options, "batch_size": 5}) == wanted


def test_a_row_that_goes_wrong_is_told_once_though_copies_of_it_fill_the_batch() -> None:
    model = static(random_llada())
    hidden, steps = model.backbone.hidden, []

    def breaks(tokens: torch.Tensor, *rest: Any, **others: Any) -> torch.Tensor:
        steps.append(tokens.shape[0])
        states: torch.Tensor = hidden(tokens, *rest, **others)
        return states * torch.nan if len(steps) == 9 else states

    model.backbone.hidden = breaks
    with pytest.raises(NumericsError, match="prompt"):
        decoded(model, sampler=SAMPLERS["threshold"])
    assert len(steps) == 9


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["sampler=prophet"], "ends rows early"),
        (["sampler=dawn"], "reads the attention|asks about states|looks at positions"),
        (["sampler=lopa"], "asks about states"),
        (["sampler=threshold", "blocks=sliding"], "blocks move"),
        (["sampler=threshold", "blocks=growing"], "rows grow"),
        (["sampler=threshold", "cache=dkv_decode"], "feeds other positions"),
        (["sampler=topk", "drafting=freedave"], "drafts are as many as pay"),
    ],
)
def test_parts_without_fixed_shapes_are_refused_before_a_model_loads(settings: list[str], why: str) -> None:
    dlm.compose([*settings, "model=local", "model.path=/nowhere"])
    with pytest.raises(SettingsError, match=why):
        dlm.compose([*settings, "model=local", "model.path=/nowhere", "runtime.graphs=true"])


def test_graphs_by_every_way_to_ask_for_them() -> None:
    loaded = dlm.load("tiny", device="cpu", graphs=True)
    composed = dlm.compose(["runtime.graphs=true", "cache=dual"]).load_model()
    prompt, options = "Sort: 3 1 2", {"sampler": "threshold", "cache": "dual", "max_new_tokens": 32}
    assert loaded.backbone.graphs and composed.backbone.graphs
    plain = dlm.generate("tiny", [prompt], **options)[0].tokens
    assert dlm.generate(loaded, [prompt], **options)[0].tokens == plain
    with pytest.raises(SettingsError, match="drafts"):
        dlm.generate(loaded, [prompt], sampler="topk", drafter=FreeDave(4))
    with pytest.raises(SettingsError, match="graphs and device_map"):
        dlm.load("tiny", device_map="auto", graphs=True)
