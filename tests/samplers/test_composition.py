"""Parts of different papers in one sampler, from YAML alone: they decode, and a row stays alone."""

from __future__ import annotations

import math

import pytest

import dlm
import samplers
from tests.doubles import random_llada, table_model
from tests.samplers.runs import decode

MODEL = random_llada()
MASK = MODEL.description.mask_id
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [8], [9, 10, 11]]

CREDIT = "sampler.transforms=[{_target_: samplers.Credit}]"
EXIT = (
    "sampler.exit={_target_: samplers.AnswerGap, progress: filled,"
    " thresholds: {_target_: samplers.Stages, early: 3.0, mid: 1.5, late: 1.0}}"
)
ADAPTIVE = ["blocks=adaptive", "blocks.delimiters=[5,11,17,23]", "blocks.threshold=0.1", "blocks.length=4"]
LEAP = ["sampler.threshold=0.5", "sampler.relaxed=0.3", "sampler.radius=2"]

COMPOSITIONS: dict[str, list[str]] = {
    "Credit x LocalLeap x AdaBlock x Prophet": [
        "sampler=localleap",
        "blocks=adaptive",
        "blocks.delimiters=[5]",
        CREDIT,
        "sampler.exit={_target_: samplers.AnswerGap}",
    ],
    "the same with settings that matter": ["sampler=localleap", *LEAP, *ADAPTIVE, CREDIT, EXIT],
    "Credit x KLASS": ["sampler=klass", "sampler.threshold=0.3", "sampler.divergence=0.5", CREDIT],
    "Credit x WINO": ["sampler=wino", "sampler.wide=0.3", "sampler.narrow=0.3", CREDIT],
    "Credit x Saber": ["sampler=saber", CREDIT],
    "Credit x Hierarchy with remasking": ["sampler=hierarchy_remask", "sampler.low=0.2", "sampler.doubt=0.3", CREDIT],
    "AdaBlock x WINO": ["sampler=wino", "sampler.wide=0.3", "sampler.narrow=0.3", *ADAPTIVE],
    "AdaBlock x EB": ["sampler=eb", "sampler.gamma=1.0", *ADAPTIVE],
    "AdaBlock x fixed budget": ["sampler=topk", "sampler.steps=6", *ADAPTIVE],
    "AdaBlock x KLASS": ["sampler=klass", "sampler.threshold=0.3", "sampler.divergence=0.5", *ADAPTIVE],
    "AdaBlock x LoPA": ["sampler=lopa", "sampler.threshold=0.5", *ADAPTIVE],
    "AdaBlock x DAWN": ["sampler=dawn", "sampler.sure=0.5", "sampler.low=0.3", "sampler.induced=0.3", *ADAPTIVE],
    "Prophet x WINO": ["sampler=wino", "sampler.wide=0.3", EXIT],
    "Prophet x CCD": ["sampler=ccd_ds", "sampler.warm_up=2", EXIT],
    "Prophet x DAWN x Credit": ["sampler=dawn", "sampler.sure=0.5", "sampler.low=0.3", EXIT, CREDIT],
    "Prophet over LocalLeap": [
        "sampler=prophet",
        "sampler.selector={_target_: samplers.LocalLeap, anchor: 0.5, relaxed: 0.3}",
        "sampler.progress=filled",
    ],
    "EOSER x threshold": ["sampler=threshold", "sampler.modifiers=[{_target_: samplers.EndRejection, steps: 4}]"],
    "certainty prior x Credit x PC": [
        "sampler=pc",
        "sampler.modifiers=[{_target_: samplers.CertaintyPrior, sigma: 2.0}]",
        CREDIT,
    ],
    "guidance x Credit x AdaBlock": ["sampler=credit", "sampler.threshold=0.5", "sampler.guidance=0.5", *ADAPTIVE],
    "stop at end x WINO": ["sampler=wino", "sampler.wide=0.3", "sampler.stop_at_end=true", "blocks.length=4"],
    "union of LocalLeap and Hierarchy": [
        "sampler=parts",
        "~sampler.selector",
        "+sampler.selector={_target_: samplers.Union, selectors: [{_target_: samplers.LocalLeap},"
        " {_target_: samplers.Hierarchy}]}",
    ],
    "what is sure and near, else a budget": [
        "sampler=parts",
        "~sampler.selector",
        "+sampler.selector={_target_: samplers.OrElse, selectors: [{_target_: samplers.LocalLeap, relaxed: 0.4},"
        " {_target_: samplers.TopK}]}",
        "sampler.budget={_target_: samplers.Uniform, tokens_per_step: 2}",
    ],
}  # fmt: skip


def test_the_four_papers_meet_in_one_sampler() -> None:
    sampler = dlm.compose(COMPOSITIONS["Credit x LocalLeap x AdaBlock x Prophet"]).sampler
    assert isinstance(sampler.selector, samplers.LocalLeap)
    assert isinstance(sampler.blocks, samplers.AdaptiveBlocks)
    assert sampler.transforms == (samplers.Credit(),)
    assert sampler.exit == samplers.AnswerGap()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("sampler.score={_target_: samplers.Margin}", samplers.Margin()),
        ("sampler.selector={_target_: samplers.LocalLeap}", samplers.LocalLeap()),
        ("sampler.selector={_target_: samplers.LocalLeap, radius: 2}", samplers.LocalLeap(radius=2)),
        ("sampler.proposer={_target_: dlm.Proposer, precision: float64}", dlm.Proposer(precision="float64")),
    ],
)
def test_any_part_can_be_replaced_by_another_one(override: str, part: object) -> None:
    """What conf/sampler/parts.yaml promises: a part given whole replaces the one that stands there."""
    sampler = dlm.compose(["sampler=parts", override]).sampler
    assert part in (sampler.score, sampler.selector, sampler.proposer)


@pytest.mark.covering
@pytest.mark.parametrize("name", COMPOSITIONS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_of_a_composition_is_alone(name: str, temperature: float) -> None:
    prefix = "++sampler.proposer." if "sampler=parts" in COMPOSITIONS[name] else "sampler."
    extra = [f"{prefix}precision=float64", f"{prefix}temperature={temperature}"]
    sampler = dlm.compose([*COMPOSITIONS[name], *extra]).sampler
    options = {"sampler": sampler, "max_new_tokens": 14, "seed": 3}
    together = dlm.generate(MODEL, PROMPTS, batch_size=3, **options)
    waiting = dlm.generate(MODEL, PROMPTS, batch_size=2, **options)
    for i, prompt in enumerate(PROMPTS):
        (alone,) = dlm.generate(MODEL, [prompt], **options)
        for other in (together[i], waiting[i]):
            assert (other.tokens, other.commit_step) == (alone.tokens, alone.commit_step)
            assert other.counts.token_forwards == alone.counts.token_forwards
        assert MASK not in alone.tokens
        assert alone.counts.forwards <= 4 * 14 * (2 if sampler.guidance else 1)


@pytest.mark.parametrize("name", ["the same with settings that matter", "Prophet x CCD", "Prophet x WINO"])
def test_the_early_exits_above_do_fire(name: str) -> None:
    """Else the compositions with Prophet would test nothing of it."""
    sampler = dlm.compose(COMPOSITIONS[name]).sampler
    answers = dlm.generate(MODEL, [[i, i + 1] for i in range(12)], sampler=sampler, max_new_tokens=14)
    assert any(answer.stop == "early_exit" for answer in answers)


def test_credit_does_not_inflate_the_gap_of_an_early_exit() -> None:
    """The gap is that of raw logits: 4 reaches what the last third asks for and no more, whatever the credit."""
    best = 1 / (1 + math.exp(-4.0))
    for alpha in (0.0, 5.0):
        sampler = samplers.prophet(steps=16, transforms=(samplers.Credit(alpha),))
        answer = decode(table_model([[best, 1 - best]] * 16), sampler, 16)
        assert (answer.counts.forwards, answer.stop) == (11, "early_exit")
