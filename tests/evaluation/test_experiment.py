"""``experiment=FILE``: settings of a file, read as data."""

from __future__ import annotations

from pathlib import Path

import pytest

import dlm
from dlm.configuration import Composer, compose_config
from dlm.errors import SettingsError

GOOD = """settings: {sampler: threshold, sampler.threshold: 0.8, blocks: fixed, blocks.length: 8, cache: dual,
  drafting: none, max_new_tokens: 24}
promise: none
"""


def written(folder: Path, text: str) -> str:
    (folder / "it s.yaml").write_text(text)
    return f"experiment={folder}/it s"


def test_settings_of_a_file_and_what_stands_beside_it(tmp_path: Path) -> None:
    word = written(tmp_path, GOOD)
    for config in (compose_config("eval", [word]), Composer("eval")([f"{word}.yaml"])):
        assert (config["sampler"]["threshold"], config["blocks"]["length"], config["max_new_tokens"]) == (0.8, 8, 24)
    assert compose_config("generate", [word, "sampler.threshold=0.7"]).sampler.threshold == 0.7
    other = dlm.compose([word, "sampler=topk", "max_new_tokens=16"])
    assert (other.name("sampler"), other.name("cache"), other.max_new_tokens) == ("topk", "dual", 16)
    assert compose_config("drift", [word]).cache._target_ == "cache.dual"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("settings: {sampler: {_target_: os.system, command: ls}}", "unknown sampler"),
        ("settings: {sampler: '{_target_: os.system}'}", "unknown sampler"),
        ("settings: {sampler._target_: os.system}", "no setting that an experiment may hold"),
        ("settings: {sampler.score: {_target_: os.system}}", "must be a plain value"),
        ("settings: {sampler.threshold: '${oc.env:HOME}'}", "must be a plain value"),
        ("settings: {hydra.run.dir: x}", "no setting that an experiment may hold"),
        ("settings: {+debug: true}", "no setting that an experiment may hold"),
        ("settings: {model: ../nope, cache: nope}", "unknown cache 'nope'"),
        ("sampler: threshold", "holds no settings"),
        ("settings: [1]", "holds no settings"),
        ("settings: !!python/object/apply:os.system [ls]", "holds no settings"),
        ("{", "holds no settings"),
        ("[" * 5000, "nested deeper than"),
        ("a: " + "b" * 300_000, "longer than"),
        ("a: &a [1]\nsettings: {sampler.score: [*a, *a]}", "no aliases"),
        (f"settings: {{sampler.score: {{x: {'x' * 900}}}}}", "must be a plain value or a list of some, got .{,100}$"),
    ],
)
def test_a_file_that_is_more_than_data_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        compose_config("eval", [written(tmp_path, text)])


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(SettingsError, match="there is no such file"):
        compose_config("eval", ["experiment=nowhere/tuned"])
