"""Settings are held against annotations, before anything is built or loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

import dlm
import samplers
from dlm.building import build, role_of
from dlm.engine.settings import checked, fitted
from dlm.errors import SettingsError


@pytest.mark.parametrize(
    ("hint", "value", "fits"),
    [
        (int, 8.0, 8), (int, 10**12, 10**12), (float, 1, 1.0), (float, 0.5, 0.5), (int | None, None, None),
        (int | float, 8.0, 8.0), (str | int, 8.0, 8), (bool | Literal["x"], "x", "x"), (bool, False, False),
        (Sequence[int], [1.0, 2], [1, 2]), (tuple[int, ...], (1.0,), (1,)), (Sequence[str | int], ["a", 2], ["a", 2]),
        (dict[int, float], {1: 2}, {1: 2.0}), (Path | str, "a", "a"), (Any, "x", "x"), (Mapping[str, Any], {}, {}),
        (Sequence[Sequence[int]], [[1], [2.0]], [[1], [2]]), (Literal[1, "a"], 1, 1),
    ],
)  # fmt: skip
def test_what_fits(hint: Any, value: Any, fits: Any) -> None:
    found = fitted(hint, value, "name")
    assert (found, type(found)) == (fits, type(fits))


@pytest.mark.parametrize(
    ("hint", "value", "said"),
    [
        (int, 1.5, "a whole number, got 1.5"), (int, float("nan"), "a whole number, got nan"), (int, True, "got true"),
        (int, float("inf"), "got inf"), (int, "8", "got '8'"), (int, None, "got null"), (float, "high", "a number"),
        (float, True, "a number, got true"), (float, 10**400, "a number"), (bool, 1, "true or false, got 1"),
        (str, 1, "a text"), (Sequence[int], "12", "a list, each of it a whole"), (Sequence[int], [1.5], "a list"),
        (Literal["a", "b"], "c", "'a' or 'b', got 'c'"), (Literal[1, 2], True, "1 or 2, got true"),
        (bool, [], "got []"),
        (int | None, "x", "a whole number or null"), (samplers.Fixed, "x", "a Fixed, got 'x'"),
        (dict[int, float], [1], "a mapping"), (tuple[int, int], [1], "a list"), (int, {"a": 1}, "got {'a': 1}"),
    ],
)  # fmt: skip
def test_what_does_not(hint: Any, value: Any, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        fitted(hint, value, "name")
    assert str(caught.value).startswith("name must be ")
    assert said in str(caught.value)


def test_the_options_of_a_preset_are_checked_like_its_own() -> None:
    assert checked(samplers.threshold, {"threshold": 1, "temperature": 0}) == {"threshold": 1.0, "temperature": 0.0}
    with pytest.raises(SettingsError, match=r"sampler\.top_k must be .* got 1\.5"):
        checked(samplers.threshold, {"top_k": 1.5}, "sampler")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sampler=topk", "sampler.tokens_per_step=1.5"], "sampler.tokens_per_step must be a whole number or null"),
        (["sampler=topk", "sampler.steps=nan"], "sampler.steps must be"),
        (["blocks=fixed", "blocks.length=true"], "blocks.length must be a whole number or null, got true"),
        (["blocks=growing", "blocks.window=null"], "blocks.window must be a whole number, got null"),
        (["sampler.transforms=x"], "sampler.transforms must be a list"),
        (["sampler.transforms=[x]"], "sampler.transforms must be a list"),
        (["sampler.exit=x"], "sampler.exit must be a EarlyExit"),
        (["sampler.ban_end=1"], "sampler.ban_end must be true or false, got 1"),
        (["sampler=factor", "sampler.compat=dirty"], "sampler.compat must be 'clean', 'reference' or 'd2cache'"),
        (["cache=sparse", "cache.kernel=1.5"], "cache.kernel must be a whole number, got 1.5"),
        (["cache=dllm", "cache.prompt_interval=null"], "cache.prompt_interval must be a whole number, got null"),
        (["cache=window", "cache.inner={_target_: cache.dual, every: x}"], "cache.inner.every must be a whole number"),
        (["drafting=freedave", "drafting.draft_length=1.5"], "drafting.draft_length must be"),
        (["seed=1.5"], "seed must be a whole number"),
        (["max_new_tokens=8.5"], "max_new_tokens must be a whole number"),
        (["model=local", "model.path=x", "model.compile=3"], "model.compile"),
        (["sampler.exit={_target_: samplers.Fixed}"], "sampler.exit: samplers.Fixed gives no EarlyExit"),
        (["sampler={_target_: samplers.Fixed}"], "sampler: samplers.Fixed gives no Sampler"),
        (["cache={_target_: nowhere.at.all}"], "there is no nowhere.at.all to build"),
        (["cache={_target_: dlm}"], "cache._target_ is MODULE.NAME, got 'dlm'"),
    ],
)
def test_a_setting_of_another_kind_is_refused_before_the_model_is_loaded(overrides: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        dlm.compose(overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_number_however_it_is_written() -> None:
    whole = dlm.compose(["blocks.length=8.0", "max_new_tokens=16.0"])
    assert whole.sampler.blocks == samplers.Fixed(8)
    assert (whole.max_new_tokens, whole.config["blocks"]["length"]) == (16, 8)


@pytest.mark.parametrize("target", ["pathlib.Path.touch", "os.mkdir", "subprocess.Popen", "os.path.join", "dlm.load"])
def test_nothing_is_called_that_cannot_be_what_is_wanted(target: str, tmp_path: Path) -> None:
    for node in ({"_target_": target, "self": str(tmp_path / "made"), "args": ["touch", str(tmp_path / "made")]},):
        for role in (role_of("sampler"), None):
            if role is None and target == "dlm.load":
                continue
            with pytest.raises(SettingsError, match=f"{target} gives no "):
                build(node, role, "sampler")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Own(samplers.Margin):
    """A stranger's part."""

    level: float = 0.5


def test_groups_take_parts_in_place_of_choices() -> None:
    own = "{_target_: dlm.Sampler, name: own, score: {_target_: tests.test_settings.Own, level: 1},"
    own += " selector: {_target_: samplers.Threshold, threshold: 0.9}, blocks: {_target_: samplers.Whole}}"
    composed = dlm.compose([f"sampler={own}", "sampler.name=mine", "cache={_target_: cache.dual, every: 4.0}"])
    assert (composed.sampler.name, composed.sampler.score) == ("mine", Own(1.0))
    assert composed.config["cache"] == {"_target_": "cache.dual", "every": 4}
