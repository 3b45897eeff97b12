"""Grids expand to what they say, in an order that never changes."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlm
from dlm.configuration import compose_config
from dlm.errors import SettingsError
from dlm.evaluation.grid import combined, expand, holds, load_grid, overrides_of
from dlm.overrides import config_dir

values = st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(st.sampled_from(["a", "b.c", "d"]), values, min_size=1))
def test_a_product_holds_every_combination_once_in_order(axes: dict[str, list[int]]) -> None:
    points = expand({"product": axes})
    assert [tuple(p.values()) for p in points] == list(itertools.product(*axes.values()))


def test_zip_goes_side_by_side() -> None:
    points = expand({"set": {"x": 0}, "zip": {"a": [1, 2], "b": [3, 4]}})
    assert points == [{"x": 0, "a": 1, "b": 3}, {"x": 0, "a": 2, "b": 4}]


def test_union_adds_and_each_multiplies() -> None:
    grid = {
        "each": [
            {"union": [{"product": {"t": [1, 2]}}, {"set": {"t": 3}}]},
            {"product": {"s": ["a", "b"]}},
        ]
    }
    assert [(p["t"], p["s"]) for p in expand(grid)] == [(t, s) for t in (1, 2, 3) for s in "ab"]


def test_what_is_set_gives_way_to_what_is_said_below() -> None:
    points = expand({"set": {"blocks": "fixed", "a": 0}, "union": [{"set": {"blocks": "whole"}}, {"set": {"b": 1}}]})
    assert points == [{"blocks": "whole", "a": 0}, {"blocks": "fixed", "a": 0, "b": 1}]


def test_points_that_are_given_twice_stand_once() -> None:
    assert expand({"union": [{"product": {"a": [1, 2]}}, {"product": {"a": [2, 3]}}]}) == [{"a": i} for i in (1, 2, 3)]


def test_conditions_of_the_grid_and_of_the_caller_filter() -> None:
    grid = {"product": {"blocks.length": [1, 2, 4, 8], "m": [4, 8]}, "where": ["m % blocks.length == 0"]}
    assert len(expand(grid)) == 7
    assert expand(grid, ["blocks.length < m", "m == 4"]) == [{"blocks.length": 1, "m": 4}, {"blocks.length": 2, "m": 4}]


@pytest.mark.parametrize(
    ("condition", "truth"),
    [
        ("a <= b.c", True),
        ("a + 1 == b.c and not a > 2", True),
        ("a in [3, 4] or name == 'x'", True),
        ("0 < a < b.c", True),
        ("a // 2 * 2 == a", False),
        ("-a >= 0", False),
    ],
)
def test_conditions(condition: str, truth: bool) -> None:
    assert holds(condition, {"a": 1, "b.c": 2, "name": "x"}) is truth


@pytest.mark.parametrize(
    "condition", ["__import__('os').system('true')", "a if a else b", "a <=", "[x for x in a]", "a.b()", "f'{a}'"]
)
def test_conditions_call_nothing(condition: str) -> None:
    with pytest.raises(SettingsError, match=r"cannot read|names"):
        holds(condition, {"a": 1})


ITSELF: dict[str, Any] = {}
ITSELF["union"] = [ITSELF]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"prodct": {}}, "not prodct"),
        ({"product": {"a": 3}}, "grid.product.a must be a list"),
        ({"zip": {"a": [1], "b": [1, 2]}}, "one length"),
        ({"zip": {"a": [1]}, "product": {"a": [2]}}, "sets a twice"),
        ({"union": [3]}, r"grid.union\[0\] must be a mapping"),
        ({"product": {"a": [1]}, "where": ["b == 1"]}, "names 'b'; the point sets a"),
        ({"product": {"a": ["x"]}, "where": ["a < 1"]}, "does not fit"),
        ({"set": {"a": 1}, "where": ["'%' % a"]}, "does not fit"),
        ({"set": {"a": 1}, "where": ["1" + 400 * "0" + " / 1.5 > a"]}, "does not fit"),
        ({"set": {"a": 1}, "where": [5000 * "-" + "a"]}, "is too long to be read"),
        ({"product": {key: list(range(10)) for key in "abcdefg"}}, "10,000,000 points"),
        (ITSELF, "the grid holds itself"),
    ],
)
def test_what_is_wrong_with_a_grid_is_said(grid: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        expand(grid)


def test_the_published_grid_has_the_published_counts() -> None:
    points = expand(load_grid("parallelbench"))
    counts = Counter(p["task"] for p in points)
    assert len(points) == 2823  # per model, as the paper's configuration lists
    assert sorted(counts.values()) == [150] * 10 + [189] * 7
    copy = [p for p in points if p["task"].endswith("/copy")]
    samplers = Counter(p["sampler"] for p in copy)
    assert samplers == {"random": 21, "topk": 21, "margin": 21, "entropy": 21, "threshold": 36, "factor": 30}


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_dir() / "grid").glob("*.yaml")))
def test_every_grid_of_the_package_expands(name: str) -> None:
    grid = load_grid(name)
    assert len(grid["about"]) > 20
    assert len(expand(grid)) > 100


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("about: mine\nproduct: {seeds: [[0, 1], null], flag: [true]}\n")
    points = expand(load_grid(str(tmp_path / "mine.yaml")))
    assert [overrides_of(p) for p in points] == [["seeds=[0,1]", "flag=true"], ["seeds=null", "flag=true"]]
    with pytest.raises(SettingsError, match=r"unknown grid 'other'.* one of parallelbench, tiny"):
        load_grid("other")
    for text in ("a: [1\n", "about: " + "[" * 300_000):  # the second would be read for minutes
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(SettingsError, match="is no YAML"):
            load_grid(str(tmp_path / "broken.yaml"))


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("sampler=glob(t*)", ["threshold", "topk"]),
        ("cache=glob([d*,none],exclude=dkv*)", ["d2cache", "delayed_prefix", "dllm", "dsb", "dual", "none"]),
        ("sampler.threshold=range(0.1,0.4,0.1)", ["0.1", "0.2", "0.3"]),
        ("sampler.threshold=range(0.3,0,-0.1)", ["0.3", "0.2", "0.1"]),
        ("seed=range(3)", ["0", "1", "2"]),
        ("seed=range(1,6,2)", ["1", "3", "5"]),
        ("seed=sort(3,1,2)", ["1", "2", "3"]),
        ("seed=choice(1,2)", ["1", "2"]),
        ("seed=tag(a,choice(1,2))", ["1", "2"]),
        ("seed=int(1.0,2.0)", ["1", "2"]),
        ("blocks.length=8", ["8"]),
        ('sampler.delimiters=["\\n"],["."]', ["['\n']", "['.']"]),
        ("model.path=/a b,/模型", ["'/a b'", "'/模型'"]),
    ],
)
def test_every_form_of_several_values(override: str, values: list[str]) -> None:
    key = override.partition("=")[0]
    found = [choice[key].replace('"', "'") for choice in combined([override])]
    assert found == values
    assert sorted(choice[key] for choice in combined(["seed=shuffle(3,1,2)"]) for key in choice) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "override",
    [
        "sampler=glob(zzz*)", "sampler.threshold=glob(*)", "sampler.threshold=interval(0,1)", "seed=range(1,1)",
        "seed=range(0,1,0)", "seed=range(0,1e9)", "seed=int(a,b)", "seed=sort(1,a)", "seed=choice()", "seed=nope(1,2)",
        "seed=range(0,5,-1)", "seed=range(a,b)", "seed=[1", "seed", "seed=range(0,inf)",
    ],
)  # fmt: skip
def test_what_has_no_values_is_one_sentence(override: str) -> None:
    with pytest.raises(SettingsError) as caught:
        combined([override])
    assert "\n" not in str(caught.value)


def test_conditions_read_numbers_as_the_command_line_does() -> None:
    found = combined(["sampler.threshold=1e0,5e-1", "task=a,b"], where=["sampler.threshold > 0.7 and task == 'a'"])
    assert [overrides_of(choice) for choice in found] == [["sampler.threshold=1.0", "task=a"]]


def test_more_points_than_anybody_would_run_are_refused() -> None:
    with pytest.raises(SettingsError, match="1,000,000 points"):
        combined(["a=range(1000)", "b=range(1000)"])


@pytest.mark.parametrize("texts", [["\n"], [".", ","], ["'"], ["]"], ["a b"], ["="], [" "]])
def test_texts_of_a_grid_file_are_what_stands_there(texts: list[str]) -> None:
    (point,) = combined([], {"set": {"sampler": "adablock", "sampler.delimiters": texts}})
    node = compose_config("generate", overrides_of(point)).sampler
    assert list(node.delimiters) == texts


def test_a_negative_zero_is_zero() -> None:
    assert str(dlm.compose(["sampler.temperature=-0.0"]).sampler.proposer.temperature) == "0.0"
