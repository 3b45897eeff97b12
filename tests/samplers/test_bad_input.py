"""Settings that are refused, with a message that says what to change."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import dlm
import samplers
from dlm.errors import SettingsError
from tests.doubles import random_dream, random_llada

MODEL = random_llada()
NAN, INF = math.nan, math.inf
LOOP = samplers.RemaskingLoop()


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        (samplers.ContextRobust, {"first": 0.8}, "first must be below last"),
        (samplers.ContextRobust, {"every": 0}, "every must be at least 1"),
        (samplers.PositionBeam, {"beams": 1}, "beams must be from 2 to 8"),
        (samplers.PositionBeam, {"most": 0}, "most must be at least 1"),
        (samplers.Unlocking, {"candidates": 0}, "candidates must be from 1 to 64"),
        (samplers.ProfiledSteps, {"entropies": [1.0, 2.0]}, "must not rise"),
        (samplers.ProfiledSteps, {"entropies": [2.0, 1.0], "steps": 3}, "at most the 2 entropies"),
        (samplers.Frechet, {"margin": -1.1}, r"margin must be in \[-1, 1\)"),
        (samplers.Frechet, {"margin": 1.0}, r"margin must be in \[-1, 1\)"),
        (samplers.EntropyThreshold, {"threshold": -0.1}, "entropy in nats, 0 or more"),
        (samplers.EntropyThreshold, {"threshold": INF}, "entropy in nats, 0 or more"),
        (samplers.Dimple, {"threshold": 0.0}, r"threshold must be in \(0, 1\]"),
        (samplers.Dimple, {"threshold": 1.1}, r"threshold must be in \(0, 1\]"),
        (samplers.Dimple, {"steps": 0}, "steps must be at least 1"),
        (samplers.Dimple, {"eps": 0.0}, r"eps must be in \(0, 1\)"),
        (samplers.Dimple, {"eps": 1.0}, r"eps must be in \(0, 1\)"),
        (samplers.Stages, {"early": 1.0}, "required gaps must not rise"),
        (samplers.Stages, {"late": 6.0}, "required gaps must not rise"),
        (samplers.Stages, {"cuts": (0.7, 0.3)}, "cuts must satisfy"),
        (samplers.Stages, {"cuts": (-0.1, 0.3)}, "cuts must satisfy"),
        (samplers.Stages, {"cuts": (0.1, 1.3)}, "cuts must satisfy"),
        (samplers.Smooth, {"first": 1.0}, "required gaps must not rise"),
        (samplers.Smooth, {"shape": "square"}, "shape must be 'linear', 'cosine' or 'exponential'"),
        (samplers.Smooth, {"decay": 0.0}, "decay must be above 0"),
        (samplers.AnswerRegion, {"after": 132}, "after must be a text, a list"),
        (samplers.AnswerGap, {"steps": 0}, "steps must be at least 1"),
        (samplers.AnswerGap, {"tokens_per_step": 0}, "tokens_per_step must be at least 1"),
        (samplers.AnswerGap, {"progress": "time"}, "progress must be 'steps' or 'filled'"),
        (samplers.AnswerRegion, {"start": -1}, "start must be at least 0"),
        (samplers.AnswerRegion, {"length": 0}, "length must be at least 1"),
        (samplers.AnswerRegion, {"start": 1, "after": (1,)}, "give one of them"),
        (samplers.AnswerRegion, {"after": ()}, "give a text or token ids"),
        (samplers.Credit, {"alpha": None}, "given together, or both left out"),
        (samplers.Credit, {"beta": None}, "given together, or both left out"),
        (samplers.Credit, {"alpha": -0.1}, r"alpha must be 0 \(off\) or more"),
        (samplers.Credit, {"alpha": INF}, r"alpha must be 0 \(off\) or more"),
        (samplers.Credit, {"beta": -0.1}, r"beta must be in \[0, 1\]"),
        (samplers.Credit, {"beta": 1.1}, r"beta must be in \[0, 1\]"),
        (samplers.Credit, {"gamma": 0.0}, "gamma must be above 0"),
        (samplers.Credit, {"gamma": INF}, "gamma must be above 0"),
        (samplers.Credit, {"slots": 0}, "slots must be at least 1"),
        (samplers.Credit, {"store": "disk"}, "store must be 'sparse' or 'dense'"),
        (samplers.LocalLeap, {"anchor": 0.0, "relaxed": 0.0}, r"anchor must be in \(0, 1.01\]"),
        (samplers.LocalLeap, {"anchor": 1.02}, r"anchor must be in \(0, 1.01\]"),
        (samplers.LocalLeap, {"relaxed": 0.0}, r"relaxed must be in \(0, 1.01\]"),
        (samplers.LocalLeap, {"relaxed": 0.95}, "relaxed=0.95 must not exceed anchor=0.9"),
        (samplers.LocalLeap, {"radius": -1}, "radius must be at least 0"),
        (samplers.AdaptiveBlocks, {"length": 0}, "blocks.length must be at least 1"),
        (samplers.AdaptiveBlocks, {"threshold": 0.0}, "threshold must be above 0"),
        (samplers.AdaptiveBlocks, {"window": -0.1}, r"window is a share .* in \[0, 1\]"),
        (samplers.AdaptiveBlocks, {"window": 1.1}, r"window is a share .* in \[0, 1\]"),
        (samplers.AdaptiveBlocks, {"delimiters": ()}, "give at least one delimiter"),
        (samplers.Coherent, {"steps": 0}, "steps must be at least 1"),
        (samplers.Coherent, {"expand": -1.0}, "expand must be in"),
        (samplers.Coherent, {"warm_up": 0}, "warm_up must be at least 1"),
        (samplers.EndRejection, {"low": -0.1}, "0 <= low <= high <= 1"),
        (samplers.EndRejection, {"high": 1.1}, "0 <= low <= high <= 1"),
        (samplers.EndRejection, {"low": 0.9, "high": 0.8}, "0 <= low <= high <= 1"),
        (samplers.EndRejection, {"steps": 0}, "steps must be at least 1"),
        (samplers.EndRejection, {"tokens_per_step": 0}, "tokens_per_step must be at least 1"),
        (samplers.EndRejection, {"schedule": "square"}, "schedule must be 'linear' or 'ascending'"),
        (samplers.EndRejection, {"compat": "exact"}, "compat must be 'clean' or 'reference'"),
        (samplers.CertaintyPrior, {"sigma": 0.0}, "sigma must be above 0"),
        (samplers.CertaintyPrior, {"sigma": INF}, "sigma must be above 0"),
        (samplers.AscendingBlocks, {"count": 0}, "count must be at least 1"),
        (samplers.EntropyBound, {"gamma": -0.1}, r"gamma must be 0 \(one position per step\) or more"),
        (samplers.EntropyBound, {"gamma": INF}, r"gamma must be 0 \(one position per step\) or more"),
        (samplers.EntropyBound, {"compat": "exact"}, "compat must be 'clean', 'd2cache' or 'sdar'"),
        (samplers.EntropyBound, {"minimum": 0}, "minimum must be at least 1"),
        (samplers.Klass, {"threshold": -0.1}, r"threshold must be in \[0, 1\]"),
        (samplers.Klass, {"threshold": 1.1}, r"threshold must be in \[0, 1\]"),
        (samplers.Klass, {"history": 0}, "history must be at least 1"),
        (samplers.Klass, {"compat": "exact"}, "compat must be 'clean' or 'd2cache'"),
        (samplers.WideIn, {"threshold": -0.1}, r"threshold must be in \[0, 1\]"),
        (samplers.WideIn, {"threshold": 1.1}, r"threshold must be in \[0, 1\]"),
        (samplers.WideIn, {"share": 1.1}, r"share must be in \[0, 1\]"),
        (samplers.WideIn, {"least": 0}, "1 <= least <= most"),
        (samplers.WideIn, {"least": 6, "most": 5}, "1 <= least <= most"),
        (samplers.NarrowOut, {"threshold": -0.1}, r"threshold must be in \[0, 1\]"),
        (samplers.NarrowOut, {"threshold": 1.1}, r"threshold must be in \[0, 1\]"),
        (samplers.Hierarchy, {"low": -0.1}, r"low must be in \[0, 1\)"),
        (samplers.Hierarchy, {"low": 1.0}, r"low must be in \[0, 1\)"),
        (samplers.Hierarchy, {"high": 0.4}, "high must be above low=0.4"),
        (samplers.Hierarchy, {"high": 1.02}, "at most 1.01, or null"),
        (samplers.HierarchyRemask, {"low": 1.0}, r"low must be in \[0, 1\)"),
        (samplers.HierarchyRemask, {"high": 0.3}, "high must be above low=0.4"),
        (samplers.HierarchyRemask, {"doubt": 1.1}, r"doubt must be in \[0, 1\]"),
        (samplers.RemaskDoubtful, {"doubt": -0.1}, r"doubt must be in \[0, 1\]"),
        (samplers.SlowFast, {"low": -0.1}, "0 <= low <= high <= 1"),
        (samplers.SlowFast, {"low": 0.95}, "0 <= low <= high <= 1"),
        (samplers.SlowFast, {"high": 1.1}, "0 <= low <= high <= 1"),
        (samplers.SlowFast, {"window": 0}, "window must be at least 1"),
        (samplers.SlowFast, {"explore": 1}, r"window must be in \[1, explore=1\]"),
        (samplers.SlowFast, {"deviation": -1.0}, "deviation must be 0 or more"),
        (samplers.Calibrated, {"decay": -0.1}, "decay must be 0 .* or more"),
        (samplers.Calibrated, {"cap": 0.0}, "cap must be above 0"),
        (samplers.MeanThreshold, {"minimum": 0}, "minimum must be at least 1"),
        (samplers.FallingConfidence, {"minimum": 0}, "minimum must be at least 1"),
        (samplers.RemaskingLoop, {"tokens_per_step": 0}, "tokens_per_step must be at least 1"),
        (samplers.RemaskingLoop, {"cycles": 0}, "cycles must be at least 1"),
        (samplers.RemaskingLoop, {"number": 0}, "number must be at least 1"),
        (samplers.RemaskingLoop, {"start": 0.0}, r"start must be in \(0, 1\)"),
        (samplers.RemaskingLoop, {"start": 1.0}, r"start must be in \(0, 1\)"),
        *((samplers.Dawn, {n: 1.1}, rf"{n} must be in \[0, 1\]") for n in ("sure", "induced", "low", "edge", "sink")),
        (samplers.CarryOver, {"steps": 0}, "steps must be at least 1"),
        (samplers.Lookahead, {"branches": 0}, "branches must be from 1 to 64"),
        (samplers.Lookahead, {"creation": 1.1}, r"creation must be in \[0, 1\]"),
        (samplers.Lookahead, {"lowest": 0.0}, r"lowest must be in \(0, 1\]"),
        (samplers.Dilated, {"base": 1}, "base must be at least 2"),
        (samplers.Independence, {"tolerance": -0.1}, "tolerance is a divergence in nats"),
        (samplers.Independence, {"levels": 11}, "levels must be from 1 to 10"),
        (samplers.InformationGain, {"candidates": 65}, "candidates must be from 1 to 64"),
        (samplers.InformationGain, {"temperature": -1.0}, r"temperature must be in \[0, inf\)"),
        (samplers.InformationGain, {"threshold": 0.0}, r"threshold must be in \(0, 1.01\]"),
        (samplers.Union, {"selectors": ()}, "Union needs at least one selector"),
        (samplers.Intersect, {"selectors": (samplers.HierarchyRemask(),)}, "Intersect: .* stands alone"),
        (samplers.OrElse, {"selectors": (samplers.SlowFast(),)}, "OrElse: .* stands alone"),
        (samplers.credit, {"variant": "fast"}, "variant must be 'paper', 'free' or 'dinfer'"),
        (samplers.eb, {"ranking": "random"}, "ranking must be 'entropy', 'probability' or 'margin'"),
        (samplers.adablock, {"blocks": samplers.Whole()}, "makes its own blocks: leave blocks alone"),
        (samplers.d3llm, {"begin": 0.0}, r"blocks.begin must be in \(0, 1\]"),
        (samplers.BestInFront, {"length": 0}, "at least 1"),
        (samplers.dcd, {"blocks": samplers.Whole()}, "'dcd' makes its own blocks: leave blocks alone"),
        (samplers.ass, {"blocks": samplers.Fixed(4)}, "use blocks=whole or blocks=auto"),
        (samplers.ass, {"blocks": samplers.AdaptiveBlocks()}, "use blocks=whole or blocks=auto"),
        (samplers.eoser_ass, {"blocks": samplers.Fixed(4)}, "use blocks=whole or blocks=auto"),
        (samplers.eoser_ass, {"blocks": samplers.AdaptiveBlocks()}, "use blocks=whole or blocks=auto"),
        (samplers.ccd, {"blocks": samplers.Fixed(4)}, "Coherent plans the whole canvas itself .* use Whole"),
        (samplers.dimple, {"blocks": samplers.Fixed(4)}, "Dimple plans the whole canvas itself .* use Whole"),
        (samplers.localleap, {"steps": 4}, "'localleap' decides by itself .* remove steps"),
        (samplers.wino, {"tokens_per_step": 4}, "'wino' decides by itself .* remove tokens_per_step"),
        (samplers.klass, {"steps": 4, "tokens_per_step": 1}, "either steps or tokens_per_step"),
    ],
)  # fmt: skip
def test_settings_out_of_range(part: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        part(**settings)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize(
    "part",
    [
        samplers.Frechet(), samplers.EntropyThreshold(), samplers.Dimple(), samplers.Stages(), samplers.Smooth(),
        samplers.Credit(), samplers.LocalLeap(), samplers.AdaptiveBlocks(), samplers.Coherent(),
        samplers.EndRejection(), samplers.CertaintyPrior(), samplers.EntropyBound(), samplers.Klass(),
        samplers.WideIn(), samplers.NarrowOut(), samplers.Hierarchy(), samplers.HierarchyRemask(),
        samplers.RemaskDoubtful(), samplers.SlowFast(), samplers.Calibrated(), samplers.RemaskingLoop(),
        samplers.Dawn(),
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_no_number_is_no_setting(part: Any, value: float) -> None:
    """A NaN passes every comparison the wrong way round; infinite gaps, caps and delimiter thresholds mean off."""
    for field in fields(part):
        if isinstance(getattr(part, field.name), float):
            if value == INF and (type(part).__name__, field.name) in MAY_BE_INFINITE:
                continue
            with pytest.raises(SettingsError, match=field.name + "|gaps|low and high|levels"):
                replace(part, **{field.name: value})


# Without bound these switch something off, which is a use.
MAY_BE_INFINITE = {
    ("AdaptiveBlocks", "threshold"),
    ("Stages", "early"),
    ("Smooth", "first"),
    ("Smooth", "decay"),
    ("Calibrated", "cap"),
    ("Klass", "divergence"),
    ("SlowFast", "deviation"),
    ("Coherent", "expand"),
}


def sampler(**parts: Any) -> dlm.Sampler:
    """Threshold decoding with other parts."""
    usual = {"score": samplers.Probability(), "selector": samplers.Threshold(), "blocks": samplers.Whole()}
    return dlm.Sampler("own", **{**usual, **parts})


TOP_K = {"selector": samplers.TopK(), "budget": samplers.Uniform()}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        *(
            ({**TOP_K, "score": score, "modifiers": (modifier,)}, f"{type(modifier).__name__} multiplies .* would raise"
             f" the negative scores of {type(score).__name__}; use .*samplers.Probability")
            for score in (samplers.NegativeEntropy(), samplers.Margin())
            for modifier in (samplers.EndRejection(), samplers.CertaintyPrior())
        ),
        *(
            ({"selector": selector, "budget": samplers.Uniform()}, r"by itself .* remove the budget \(Uniform\)")
            for selector in (
                samplers.Frechet(), samplers.EntropyThreshold(), samplers.Dimple(), samplers.LocalLeap(),
                samplers.Coherent(), samplers.EntropyBound(), samplers.WideIn(), samplers.Hierarchy(),
                samplers.HierarchyRemask(), samplers.SlowFast(), samplers.MeanThreshold(), samplers.Dawn(),
                samplers.Union((samplers.Threshold(),)),
            )
        ),
        *(
            ({"selector": selector}, "as a budget says; give one")
            for selector in (samplers.Klass(), samplers.RunningConfidence(), samplers.OrElse((samplers.TopK(),)))
        ),
        *(
            ({**TOP_K, "reviser": reviser}, f"{type(reviser).__name__} is bounded only together with the {role}")
            for reviser, role in (
                (samplers.NarrowOut(), "selector WideIn"),
                (samplers.RemaskDoubtful(), "selector HierarchyRemask"),
                (samplers.FallingConfidence(), "selector MeanThreshold"),
                (samplers.RemaskOvertaken(), "selector RunningConfidence"),
                (samplers.RemaskLowest(LOOP), "budget RemaskingLoop"),
            )
        ),
        ({"selector": samplers.WideIn(), "reviser": (samplers.NarrowOut(),) * 2}, "reviser must be a Reviser or null"),
        (
            {"selector": samplers.HierarchyRemask(doubt=0.1), "reviser": samplers.RemaskDoubtful(0.9)},
            "RemaskDoubtful .* doubt",
        ),
        (
            {**TOP_K, "budget": samplers.RemaskingLoop(), "reviser": samplers.RemaskLowest(samplers.RemaskingLoop(2))},
            "RemaskLowest .*RemaskingLoop",
        ),
        *(
            ({"probe": samplers.Lookahead(), **parts}, f"branches cannot be combined with {what}.*: remove one")
            for parts, what in (
                ({"transforms": (samplers.Credit(),)}, "a logit transform"),
                ({"guidance": 1.0}, "guidance"),
                ({"exit": samplers.AnswerGap()}, "an early exit"),
                ({"selector": samplers.WideIn(), "reviser": samplers.NarrowOut()}, "a reviser"),
                ({"selector": samplers.HierarchyRemask()}, "a selector that rewrites"),
                ({"selector": samplers.Dawn()}, "a part that reads .*attention"),
                ({"selector": samplers.Klass(), "budget": samplers.Uniform()}, "a part that reads the previous"),
            )
        ),
        *(
            ({"selector": selector, "blocks": samplers.Fixed(4)}, "plans the whole canvas itself")
            for selector in (
                samplers.Union((samplers.Dimple(), samplers.Threshold())),
                samplers.OrElse((samplers.Threshold(), samplers.Coherent())),
                samplers.Bernoulli(samplers.TimeGrid(16)),
            )
        ),
        ({**TOP_K, "budget": samplers.TimeGrid(), "blocks": samplers.AdaptiveBlocks()}, "plans the whole canvas"),
        *(
            ({**TOP_K, "budget": samplers.Ascending(), "blocks": blocks}, "Ascending plans the whole canvas itself and"
             f" does not fit the blocks of {type(blocks).__name__}; use Whole or AscendingBlocks")
            for blocks in (samplers.Fixed(4), samplers.AdaptiveBlocks())
        ),
    ],
)  # fmt: skip
def test_parts_that_contradict_each_other(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        sampler(**parts)


def frequency_file(path: Path, **tensors: torch.Tensor) -> str:
    save_file(tensors, path / "f.safetensors")
    return str(path / "f.safetensors")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (lambda: samplers.prophet(answer_start=8), "begins at generated position 8, .* lower its start or raise max"),
        (
            lambda: samplers.prophet(answer_after="The answer"),
            "answer suffix 'The answer' needs a tokenizer .*token ids",
        ),
        (lambda: samplers.adablock(), "needs a tokenizer and this model has none: give token ids"),
        (lambda: samplers.adablock(delimiters=[40]), "delimiter 40 is no token id of this model; it has 40"),
        (lambda: samplers.adablock(delimiters=[-1]), "delimiter -1 is no token id"),
        (
            lambda: samplers.adablock(delimiters=[5], length=9),
            "longer than the canvas of 8 .* at most 8, or blocks=whole",
        ),
        (lambda: samplers.ccd(steps=9), "steps=9 is more than the 8 positions to fill: use at most 8"),
        (lambda: samplers.ccd_ds(steps=9), "steps=9 is more than the 8 positions to fill: use at most 8"),
        (lambda: samplers.remdm(cycles=25), "25 remasking cycles .* use at most 24 cycles or longer blocks"),
        (lambda: samplers.remdm(cycles=13, blocks=samplers.Fixed(4)), "use at most 12 cycles or longer blocks"),
        (lambda: samplers.ass(block_count=4), "4 ascending blocks need 2.4 positions to fill, got 8"),
        (lambda: samplers.pc(frequencies="nowhere.safetensors"), "nowhere.safetensors does not exist; make one with"),
    ],
)
def test_settings_that_do_not_fit_the_run(chosen: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dlm.generate(MODEL, [[1]], sampler=chosen(), max_new_tokens=8)


def test_doubling_steps_need_two_positions() -> None:
    with pytest.raises(SettingsError, match="at least 2 positions to fill, got 1"):
        dlm.generate(MODEL, [[1]], sampler=samplers.ass(), max_new_tokens=1)


def test_remdm_at_its_bound_ends() -> None:
    (answer,) = dlm.generate(MODEL, [[1]], sampler=samplers.remdm(cycles=24), max_new_tokens=8)
    assert answer.counts.forwards == 32


def test_frequencies_that_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not a table", encoding="utf-8")
    wrong = {
        str(tmp_path / "text.safetensors"): "is no safetensors file",
        str(tmp_path): "does not exist; make one with scripts/frequencies.py, or use null",
    }
    for path, message in wrong.items():
        with pytest.raises(SettingsError, match=message):
            dlm.generate(MODEL, [[1]], sampler=samplers.pc(frequencies=path), max_new_tokens=4)
    for tensors in ({"other": torch.ones(40)}, {"frequency": torch.ones(39)}, {"frequency": torch.ones(40, 1)}):
        chosen = samplers.pc(frequencies=frequency_file(tmp_path, **tensors))
        with pytest.raises(SettingsError, match="holds no tensor 'frequency' of at least 40 entries"):
            dlm.generate(MODEL, [[1]], sampler=chosen, max_new_tokens=4)


def test_wino_needs_logits_in_place() -> None:
    with pytest.raises(SettingsError, match=r"shifted by one \(Dream\): use another sampler"):
        dlm.generate(random_dream(), [[1]], sampler=samplers.wino(), max_new_tokens=4)


@pytest.mark.parametrize(
    ("delimiter", "message"),
    [
        ("hello there", r"delimiter 'hello there' is 6 tokens .*: give texts of a single token, or token ids"),
        ("", "delimiter '' is empty"),
        (478, "delimiter 478 is no token id"),
    ],
)
def test_delimiters_are_single_tokens(delimiter: str | int, message: str) -> None:
    model, chosen = dlm.load("tiny"), samplers.adablock(delimiters=["\n", delimiter])
    with pytest.raises(SettingsError, match=message):
        dlm.generate(model, ["47+85="], sampler=chosen, max_new_tokens=8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "paper"}, "rule must be 'decoded', 'complete', 'reached', 'accepted' or 'reference'"),
        ({"rule": "reference", "choice": "first"}, "choice must be"),
        ({"rule": "reference", "min_confidence": 1.5}, "min_confidence is a probability"),
        ({"rule": "reference", "min_confidence": float("nan")}, "min_confidence is a probability"),
        ({"choice": "leftmost"}, "belong to rule=reference"),
        ({"rule": "complete", "min_confidence": 0.5}, "belong to rule=reference"),
    ],
)
def test_ends_of_text_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        samplers.EndOfText(**settings)


def test_options_of_the_end_that_are_refused() -> None:
    for wrong in ("yes", "block", 1.0, None):
        with pytest.raises(
            SettingsError, match="must be true or false, 'decoded', 'complete', 'reached', 'accepted' or 'reference'"
        ):
            samplers.topk(stop_at_end=wrong)
    with pytest.raises(SettingsError, match="give one of them"):
        samplers.topk(stop_at_end=True, stop=samplers.EndOfText())
    assert samplers.topk(stop=samplers.EndBlock()) == samplers.topk(stop_at_end=True)
    with pytest.raises(SettingsError, match="stop_at_end must be"):
        dlm.compose(["sampler.stop_at_end=soon"])


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.localleap(radius=2**31 - 1),
        samplers.klass(history=10**9),
        samplers.credit(slots=10**9),
        samplers.slowfast(explore=10**9, window=10**9),
        samplers.ccd(warm_up=10**9),
        samplers.topk(steps=10**9),
        samplers.dream_entropy(steps=10**9, compat="clean"),
        samplers.prophet(answer_start=0, answer_length=10**9),
    ],
    ids=lambda sampler: sampler.name,
)
def test_numbers_far_beyond_a_row_cost_nothing(sampler: Any) -> None:
    (answer,) = dlm.generate(random_llada(), [[3, 4]], sampler=sampler, max_new_tokens=4)
    assert len(answer.tokens) == 4


def test_numbers_without_an_end_are_refused() -> None:
    for settings in ({"radius": 10**30}, {"radius": 1.5}, {"radius": True}):
        with pytest.raises(SettingsError, match="radius must be"):
            samplers.localleap(**settings)
    with pytest.raises(SettingsError, match="steps=1000000000 for 4 positions"):
        dlm.generate(random_llada(), [[3]], sampler=samplers.dream_entropy(steps=10**9), max_new_tokens=4)
