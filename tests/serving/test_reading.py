"""Text that is told while a canvas fills in any order adds up to the library's answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
from dlm.engine.stops import Stops
from dlm.serving.reading import Reading

MODEL = dlm.load("tiny")
TEXTS = ["7+5=12,4+8+1=13,132", '["Anna", "Bob"]', "Zoë, Ünal, \N{GREEK SMALL LETTER ALPHA}\N{SNOWMAN}!", ""]
STOPS = [None, ["+5", "7+5=12"], ["=1", "5=12,"], [", "], ["ë,", "Z"], ["\N{SNOWMAN}"], ["nowhere"], ["13", "3,1"]]


@settings(max_examples=60)
@given(st.sampled_from(TEXTS), st.sampled_from(STOPS), st.booleans(), st.randoms(use_true_random=False))
def test_what_is_told_adds_up(text: str, stop: list[str] | None, ends: bool, rng: object) -> None:
    about = MODEL.description
    tokens = MODEL.encode(text) + ([about.eos_ids[0]] * 2 if ends else [])
    stops = Stops.of(MODEL, stop)
    order = list(range(len(tokens)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    canvas, reading, told = [about.mask_id] * len(tokens), Reading(MODEL, stops), ""
    for place in order:
        canvas[place] = tokens[place]
        told += reading.take(list(canvas))
    told += reading.take(tokens, final=True)
    useful = tokens[: len(MODEL.encode(text))]
    assert told == reading.text == (MODEL.decode(useful) if stops is None else stops.text(tokens))
    assert reading.length == (len(useful) if stops is None else stops.kept(tokens))


def test_nothing_is_told_of_tokens_that_may_be_taken_back() -> None:
    tokens = MODEL.encode("7+5=12")
    reading = Reading(MODEL, None, keeps=False)
    assert reading.take(tokens) == ""
    assert reading.take(tokens, final=True) == "7+5=12"


@pytest.mark.parametrize("stop", [3, {"a": 1}, b"a", [3], [""], ""])
def test_a_stop_that_is_no_text_is_refused(stop: object) -> None:
    with pytest.raises(dlm.SettingsError, match="stop is a text, or a list of texts"):
        dlm.generate(MODEL, ["1+1="], sampler="threshold", max_new_tokens=4, stop=stop)  # type: ignore[arg-type]
