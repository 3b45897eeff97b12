"""Settings and parts as callers say them: by name, uncalled, of the wrong kind, misspelt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest

import cache
import dlm
import samplers
from dlm.drafting import FreeDave
from dlm.engine.calls import hints_of
from dlm.engine.interfaces import Cache, Part, Speculator
from dlm.engine.settings import fitted
from dlm.evaluation import score
from samplers.presets.options import SharedOptions

MODEL = dlm.load("tiny")


def answer(**settings: Any) -> str:
    return dlm.generate(MODEL, ["47+85="], max_new_tokens=16, **settings)[0].text


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ({"sampler": "threshold"}, {"sampler": samplers.threshold()}),
        ({"sampler": samplers.topk}, {"sampler": samplers.topk()}),
        ({"sampler": "topk", "cache": "dual"}, {"sampler": samplers.topk(), "cache": cache.dual()}),
        ({"sampler": "topk", "cache": cache.DKVPD}, {"sampler": samplers.topk(), "cache": cache.DKVPD()}),
        ({"sampler": "topk", "cache": cache.adaptive}, {"sampler": samplers.topk(), "cache": cache.adaptive()}),
        ({"sampler": "topk", "cache": "none"}, {"sampler": samplers.topk()}),
        ({"sampler": "topk", "drafter": "freedave"}, {"sampler": samplers.topk(), "drafter": FreeDave()}),
        ({"sampler": "topk", "drafter": FreeDave}, {"sampler": samplers.topk(), "drafter": FreeDave()}),
        ({"sampler": "topk", "drafter": "none"}, {"sampler": samplers.topk()}),
    ],
)
def test_a_name_or_what_is_uncalled_stands_for_its_defaults(said: dict[str, Any], meant: dict[str, Any]) -> None:
    decoders = [
        dlm.Decoder(MODEL.backbone, MODEL.description, **{"sampler": "topk", **parts}) for parts in (said, meant)
    ]
    assert decoders[0].sampler == decoders[1].sampler
    assert decoders[0].policy == decoders[1].policy
    assert decoders[0].drafter == decoders[1].drafter
    assert answer(**said) == answer(**meant)


def test_every_call_takes_names() -> None:
    assert dlm.infill(MODEL, 'Copy: ["Anna"]["[MASK]"]', sampler="topk", cache="dual", drafter="freedave")[0].text
    assert list(dlm.stream("tiny", "47+85=", sampler=samplers.threshold, cache=cache.dual, max_new_tokens=16))
    assert score("tiny", "waiting_line/copy", "threshold", n=2)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"sampler": samplers.Threshold()}, r"Threshold \(one part of a sampler\) is no sampler: pass samplers.thresh"),
        ({"sampler": samplers.Threshold}, r"Threshold \(one part of a sampler\) is no sampler"),
        ({"sampler": 3}, "int is no sampler: pass samplers.threshold"),
        ({"sampler": None}, "NoneType is no sampler"),
        ({"sampler": samplers}, "module is no sampler"),
        ({"sampler": cache.dual()}, r"Dual \(a cache\) is no sampler"),
        ({"sampler": "treshold"}, r"unknown sampler 'treshold' \(did you mean threshold\?\); known are topk, margin"),
        ({"sampler": dlm.load}, "cannot be called without settings"),
        ({"sampler": "topk", "cache": samplers.topk()}, r"Sampler \(a sampler\) is no cache: pass cache.dual\(\)"),
        ({"sampler": "topk", "cache": "duel"}, r"unknown cache 'duel' \(did you mean dual\?\); known are none"),
        ({"sampler": "topk", "cache": {}}, "dict is no cache"),
        ({"sampler": "topk", "drafter": "draft"}, "unknown drafter 'draft'; known are freedave"),
        ({"sampler": "topk", "drafter": cache.dual()}, r"Dual \(a cache\) is no drafter: pass dlm.drafting.FreeDave"),
        (
            {"smapler": "topk"},
            r"generate\(\) has no setting smapler \(did you mean sampler\?\); it knows model, prompts",
        ),
        ({}, r"generate\(\): missing a required argument: 'sampler'"),
    ],
)
def test_what_is_none_is_said_with_what_to_pass(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(dlm.SettingsError, match=message):
        answer(**parts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.threshold("abc"), "^threshold must be a number, got 'abc'$"),
        (lambda: samplers.topk(tokens_per_step="2"), "^tokens_per_step must be a whole number or null, got '2'$"),
        (lambda: samplers.topk(tokens_per_step=True), "tokens_per_step must be a whole number or null, got true"),
        (lambda: samplers.topk(steps=2.5), "steps must be a whole number or null, got 2.5"),
        (
            lambda: samplers.adablock(delimiters=5),
            "a list, each of it a text or a whole number, got 5",
        ),
        (lambda: samplers.adablock(delimiters="\n"), "delimiters must be a list, each of it a text or a whole number"),
        (lambda: samplers.localleap("a"), "threshold must be a number"),
        (lambda: samplers.ass(block_count="2"), "block_count must be a whole number"),
        (lambda: samplers.threshold(temperature="hot"), "temperature must be a number, got 'hot'"),
        (lambda: samplers.threshold(top_k="3"), "top_k must be a whole number or null"),
        (lambda: samplers.threshold(precision="float16"), "precision must be 'float32' or 'float64', got 'float16'"),
        (lambda: samplers.threshold(blocks=samplers.Whole), r"blocks must be .*got Whole itself: write Whole\(\)"),
        (lambda: samplers.threshold(guidance=None), "guidance must be a number, got null"),
        (lambda: samplers.lopa(selector="topk"), "selector must be a Selector or null, got 'topk'"),
        (lambda: samplers.Union([samplers.TopK(), 3]), "selectors must be a list, each of it a Selector"),
        (lambda: samplers.Threshold(capped=1), "capped must be true or false, got 1"),
        (lambda: cache.dual(every="3"), "every must be a whole number or null, got '3'"),
        (lambda: cache.sparse(keep="half"), "keep must be a number"),
        (lambda: cache.dkv_decode(cadence="paper"), "cadence must be 'seeded' or 'reference', got 'paper'"),
        (lambda: cache.window(inner="dual"), "inner must be a Policy"),
        (lambda: FreeDave(layout="row"), "layout must be 'batch' or 'tree', got 'row'"),
        (lambda: dlm.Proposer(temperature="hot"), "temperature must be a number"),
        (
            lambda: samplers.threshold(treshold=0.9),
            r"\(did you mean threshold\?\); it knows threshold, blocks, temperat",
        ),
        (lambda: samplers.threshold(0.9, 0.8), "too many positional arguments; it takes threshold, blocks"),
        (lambda: samplers.Threshold(treshold=0.9), r"Threshold has no setting treshold \(did you mean threshold\?\)"),
        (lambda: cache.dkv_decode(cadence="refrence"), r"got 'refrence' \(did you mean reference\?\)"),
        (lambda: cache.dual(evry=3), r"Dual has no setting evry \(did you mean every\?\); it knows every"),
        (lambda: cache.adaptive(recnt=3), r"adaptive\(\) has no setting recnt \(did you mean recent\?\); it knows thr"),
        (lambda: cache.none(every=3), "has no setting every; it knows none"),
        (lambda: samplers.FlooredShares(), "FlooredShares: missing a required argument: 'steps'"),
        (lambda: samplers.oracle(), "missing a required argument: 'answers'"),
    ],
)
def test_a_setting_of_the_wrong_kind_or_name(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(dlm.SettingsError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (8.0, int, 8),
        (np.int64(8), int, 8),
        (np.float32(0.5), float, 0.5),
        (1, float, 1.0),
        (["a", 1], Sequence[str | int], ["a", 1]),
        ([[1, 2], [3]], Sequence[Sequence[int]], [[1, 2], [3]]),
        ("auto", int | Literal["auto"], "auto"),
        (object, Any, object),
    ],
)
def test_what_is_plainly_meant_is_taken(value: Any, kind: Any, right: Any) -> None:
    found = fitted(kind, value, "it")
    assert found == right
    assert type(found) is type(right)


def test_every_setting_of_ours_can_be_checked() -> None:
    """An annotation that cannot be read would let anything through."""

    def below(role: type) -> set[type]:
        return {sub for direct in role.__subclasses__() for sub in (direct, *below(direct))}

    for kind in below(Part) | below(Cache) | below(Speculator):
        if is_dataclass(kind) and kind.__module__.startswith(("samplers.", "cache.", "dlm.")):
            assert {f.name for f in fields(kind)} <= set(hints_of(kind)), kind


def test_a_part_of_a_stranger_is_checked_too() -> None:
    @dataclass(frozen=True)
    class Mine(samplers.Threshold):
        extra: int = 3

    assert Mine(extra=4.0).extra == 4
    with pytest.raises(dlm.SettingsError, match="extra must be a whole number, got 'x'"):
        Mine(extra="x")


def test_the_shared_options_of_a_signature_are_the_options() -> None:
    assert get_type_hints(SharedOptions) == get_type_hints(samplers.Options)
