"""Configuration: every choice of every group builds, YAML equals Python, and errors say what to change."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import cache
import dlm
import samplers
from dlm import configuration
from dlm.configuration import Composer, compose_config, plain_of
from dlm.errors import SettingsError
from dlm.evaluation.grid import combined, load_grid
from dlm.evaluation.sweeps import Sweep


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", samplers.PRESETS)
def test_yaml_and_python_build_the_same_sampler(name: str) -> None:
    composed = dlm.compose([f"sampler={name}"])
    assert composed.sampler == getattr(samplers, name)()
    # Look-ahead branches refuse guidance and logit transforms.
    probing = getattr(samplers, name)().probe is not None
    options: dict[str, Any] = {"temperature": 0.5} if probing else {"guidance": 1.5, "ban_end": True}
    warm = dlm.compose([f"sampler={name}", *(f"sampler.{key}={value}" for key, value in options.items())])
    assert warm.sampler == getattr(samplers, name)(**options)


def test_settings_reach_the_parts() -> None:
    composed = dlm.compose(["sampler=topk", "sampler.tokens_per_step=4", "blocks.length=16", "seed=3", "batch_size=2"])
    assert composed.sampler.budget == samplers.Uniform(tokens_per_step=4)
    assert composed.sampler.blocks == samplers.Fixed(16)
    assert (composed.max_new_tokens, composed.seed, composed.batch_size) == (128, 3, 2)
    assert dlm.compose(["sampler=threshold", "sampler.threshold=0.8"]).sampler.selector == samplers.Threshold(0.8)
    assert dlm.compose(["blocks=whole"]).sampler.blocks == samplers.Whole()


def test_models_with_attention_blocks_come_with_the_exact_cache(tmp_path: Path) -> None:
    """Unless a cache is named; a folder says by its config.json what it is."""
    packaged = Path(dlm.__file__).parent / "models"
    blocks = ["model=tiny-block", "model=sdar-4b-chat", f"model={packaged / 'tiny_block'}"]
    for model in blocks:
        assert dlm.compose([model]).cache == cache.block_causal()
        assert dlm.compose([model, "cache=none"]).cache == cache.none()
        assert dlm.compose([model, "cache=dual", "cache.every=4"]).cache == cache.dual(every=4)
        assert Composer("eval")(["task=waiting_line/copy", model])["choices"]["cache"] == "block_causal"
    for model in ("model=tiny", "model=llada-moe-7b-a1b-instruct", f"model={packaged / 'tiny'}", f"model={tmp_path}"):
        assert dlm.compose([model]).cache == cache.none()
    assert compose_config("train_filter", ["model=tiny-block"])["model"]["name_or_path"] == "tiny-block"


def test_a_sweep_asks_hydra_once_for_each_choice_that_is_more_than_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def counted(name: str, overrides: list[str], chosen: bool = False) -> Any:
        asked.append(list(overrides))
        return compose_config(name, overrides, chosen)

    monkeypatch.setattr(configuration, "compose_config", counted)
    choices = list(combined([f"out={tmp_path}"], load_grid("parallelbench"), ()))[::20]
    assert Sweep.of(choices).cost().points == len(choices) == 142
    named = ["entropy", "factor", "margin", "random", "threshold", "topk"]
    assert sorted(asked) == [[], *([f"sampler={name}"] for name in named)]


@pytest.mark.parametrize(
    "override",
    [
        "task=parallelbench/puzzle/sudoku", "task=gsm8k", "blocks=sliding", "cache=dual", "cache=none",
        "drafting=freedave", "drafting=none", "model=llada-8b-instruct", "sampler=topk", "task='waiting_line/copy'",
    ],
)  # fmt: skip
def test_a_choice_read_from_its_file_is_hydras(override: str) -> None:
    assert Composer("eval")([override]) == plain_of(compose_config("eval", [override], chosen=True))


def test_parts_combine_freely_and_a_stranger_is_welcome() -> None:
    overrides = [
        "sampler=parts",
        "sampler.score._target_=samplers.Margin",
        "sampler.selector={_target_: tests.test_compose.EveryOther}",
    ]
    composed = dlm.compose(overrides)
    assert composed.sampler.score == samplers.Margin()
    assert isinstance(composed.sampler.selector, EveryOther)


class EveryOther(samplers.Threshold):
    """A stranger's part in a stranger's module."""


def test_compose_works_inside_a_hydra_application() -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from dlm.overrides import config_dir

    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        assert dlm.compose(["sampler=factor"]).sampler.name == "factor"
        assert GlobalHydra.instance().is_initialized()
        assert hydra.compose("generate").seed == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler=nope"], "unknown sampler 'nope'; known are adablock, .*threshold"),
        (["model=gpt"], "unknown model 'gpt'; known are .*tiny"),
        (["sampler.steps=64"], "'threshold' decides by itself .* remove sampler.steps"),
        (
            ["sampler.tempreature=1"],
            r"'sampler.tempreature' \(did you mean temperature\?\); sampler knows .*temperature",
        ),
        (["max_new_token=1"], r"'max_new_token' \(did you mean max_new_tokens\?\); the command knows .*max_new_tokens"),
        (["threshold=0.8"], r"'threshold' \(did you mean sampler.threshold\?\)"),
        (["sampler=treshold"], r"unknown sampler 'treshold' \(did you mean threshold\?\); known are"),
        (["nothing.here=1"], "unknown setting 'nothing.here'"),
        (["sampler.threshold=1.5"], "threshold must be above 0"),
        (["sampler.threshold=high"], "sampler.threshold must be a number, got 'high'"),
        (["sampler=topk", "sampler.steps=4", "sampler.tokens_per_step=2"], "either steps or tokens_per_step"),
        (["sampler=dream_entropy", "blocks=fixed"], "whole canvas: use blocks=whole"),
        (["sampler=parts", "sampler.budget={_target_: samplers.Uniform}"], "remove the budget"),
        (["max_new_tokens=many"], "max_new_tokens must be a whole number"),
        (["model=local"], "model.path"),
        (["model=local"], "add model.path=VALUE"),
        (["sampler=[", "x"], "cannot read 'sampler='|cannot read 'sampler=\\['"),
        (["hello there"], "'hello there' is not key=value .*'prompt=hello there'"),
        (["topk"], "'topk' is not key=value: it is given as sampler=topk"),
        (["waiting_line/copy"], "it is given as task=waiting_line/copy"),
        (["--multirun"], "unknown option '--multirun'"),
        (["prompt_ids=5,6"], r"write a list as 'prompt_ids=\[5,6\]'"),
        (["sampler=topk,margin"], "several values at once: give one$"),
        (["sampler=null"], "cannot be null"),
        (["~sampler"], "sampler is not chosen: add sampler=NAME, one of .*threshold"),
        (["drafting.enabled=true"], "drafting knows no settings"),
        (["chat=maybe"], "chat must be true or false"),
        (["runtime.compile=3"], "runtime.compile must be true or false, got 3"),
        (["cache=dual", "cache.every=0"], "every must be a whole number of at least 1, got 0"),
        (["cache=nope"], "unknown cache .nope. .*; known are adaptive, block_causal, d2cache, delayed_prefix"),
        (["+sampler.steps=4"], "'threshold' decides by itself"),
        (["+sampler.warmth=4"], "no setting warmth; it knows threshold, blocks"),
        (["blocks.length=abc"], "blocks.length must be a whole number or null, got 'abc'"),
        (["sampler=parts", "sampler.score._target_=samplers.Nope"], "there is no samplers.Nope to build"),
        (
            ["sampler=parts", "sampler.modifiers=[{_target_: samplers.SuppressEnd, foo: 1}]"],
            "SuppressEnd has no setting foo; it knows none",
        ),
    ],
)
def test_errors_say_what_to_change(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        dlm.compose(overrides)
    assert "\n" not in str(caught.value)


def test_overrides_are_a_list() -> None:
    with pytest.raises(SettingsError, match=r"compose\(\['sampler=topk'\]\)"):
        dlm.compose("sampler=topk")


def test_composing_leaves_no_state_behind_even_after_an_error() -> None:
    from hydra.core.global_hydra import GlobalHydra

    with pytest.raises(SettingsError):
        dlm.compose(["sampler=nope"])
    assert not GlobalHydra.instance().is_initialized()
    assert dlm.compose() == dlm.compose()


def test_threads_compose_side_by_side() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            wanted = [f"0.{n % 9 + 1}" for n in range(12)]
            found = list(pool.map(lambda t: dlm.compose(["sampler=threshold", f"sampler.threshold={t}"]), wanted))
    finally:
        sys.setswitchinterval(before)
    assert [composed.sampler for composed in found] == [samplers.threshold(float(t)) for t in wanted]


def test_python_presets_refuse_what_they_do_not_know() -> None:
    def refused(call: Any) -> str:
        with pytest.raises(SettingsError) as caught:
            call()
        return str(caught.value)

    assert "remove steps" in refused(lambda: samplers.threshold(0.9, steps=4))
    assert "it knows tokens_per_step, steps, blocks, temperature" in refused(lambda: samplers.topk(warmth=3))
    assert "as a budget says" in refused(
        lambda: dlm.Sampler("x", samplers.Probability(), samplers.TopK(), samplers.Whole())
    )


def test_bench_configuration_composes() -> None:
    config = compose_config("bench", ["bench.shapes=[narrow]", "bench.block=16"])
    assert config.blocks.length == 16
