"""Lists on a command line: one grammar for samplers, caches, tasks and names of results."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.choices import chosen, labels, listed, names, split
from dlm.errors import SettingsError
from dlm.overrides import choices

NAME = st.text("abcxyz_", min_size=1, max_size=6)
PLAIN = st.one_of(st.integers(0, 99).map(str), st.sampled_from(["null", "true", "0.5", "'a,b'", '"]"']))
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda values: "[" + ",".join(values) + "]"),
        st.dictionaries(NAME, inner, max_size=3).map(
            lambda values: "{" + ",".join(f"{key}:{value}" for key, value in values.items()) + "}"
        ),
    ),
    max_leaves=6,
)
ENTRY = st.builds(
    lambda name, settings: name + (":" + ",".join(f"{k}={v}" for k, v in settings.items()) if settings else ""),
    NAME,
    st.dictionaries(NAME, NESTED, max_size=3),
)


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("threshold", ["threshold"]),
        ("[a, b,a]", ["a", "b"]),
        ("{a, b}", ["a", "b"]),
        ("['a','b:k=1,l=2',c]", ["a", "b:k=1,l=2", "c"]),
        ('["a","b:k=1"]', ["a", "b:k=1"]),
        ("[b:k=1,l=2,c:m=[1,2]]", ["b:k=1,l=2", "c:m=[1,2]"]),
        ("[b:k={x:1,y:[2,3]},c]", ["b:k={x:1,y:[2,3]}", "c"]),
        ("a:k='x,y',b", ["a:k='x,y'", "b"]),
        ("[]", []),
        ("", []),
    ],
)
def test_lists_with_and_without_quotes(text: str, entries: list[str]) -> None:
    assert listed(text) == entries


@given(st.lists(ENTRY, unique=True, max_size=5), st.sampled_from(["[]", "{}"]))
def test_what_is_listed_comes_back(entries: list[str], around: str) -> None:
    assert listed(around[0] + ",".join(entries) + around[1]) == entries
    bare = [entry for entry in entries if "'" not in entry]
    assert listed("[" + ",".join(f"'{entry}'" for entry in bare) + "]") == bare


@given(st.text("ab,'\"[]{}:= ", max_size=20))
def test_any_text_is_cut_without_losing_anything(text: str) -> None:
    assert "".join(split(text)).replace(" ", "").replace(",", "") == text.replace(" ", "").replace(",", "")


def test_names_may_hold_blanks_commas_and_apostrophes() -> None:
    assert names("threshold threshold=0.9") == ["threshold threshold=0.9"]
    assert names("[threshold threshold=0.9,topk]") == ["threshold threshold=0.9", "topk"]
    assert names("['a, fixed blocks x=1',\tc]") == ["a, fixed blocks x=1", "c"]
    assert names("['a, b', \"c, d\"]") == ["a, b", "c, d"]
    assert names("[it's mine,it's yours]") == ["it's mine", "it's yours"]


def test_labels_are_known_choices() -> None:
    assert labels("sampler", "all", leave_out=("parts",)) == [n for n in choices("sampler") if n != "parts"]
    assert labels("cache", "[none,dual:every=2]") == ["none", "dual:every=2"]
    for text, message in (
        ("[topk,nope:k=1]", "unknown sampler 'nope'; known are all or "),
        ("[]", "samplers names none: all, or some of "),
        ("topk:steps", r"samplers: 'steps' in 'topk:steps' is not key=value \(as topk:tokens_per_step=4\)"),
    ):
        with pytest.raises(SettingsError, match=message):
            labels("sampler", text)


def test_a_label_stands_for_overrides() -> None:
    assert chosen("sampler", "topk") == ["sampler=topk"]
    assert chosen("cache", "window:sizes=[1,2], every=3") == ["cache=window", "cache.sizes=[1,2]", "cache.every=3"]
