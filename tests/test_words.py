"""Texts for a person: nothing that commands a terminal reaches one."""

from __future__ import annotations

import pytest

from dlm.words import counted, meant, nearest, not_among, unknown_name, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 🙂", "plain é 漢 🙂"),
        ("\x1b]0;owned\x07\x1b[2J", "\\x1b]0;owned\\x07\\x1b[2J"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("\ud800 \uffff \u2028", "\\ud800 \\uffff \\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_control_characters_become_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    shown.encode()


def test_what_is_kept() -> None:
    assert visible("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_numbers_with_their_nouns() -> None:
    assert [counted(n, "forward") for n in (0, 1, 2, 1000)] == [
        "0 forwards",
        "1 forward",
        "2 forwards",
        "1,000 forwards",
    ]
    assert counted(2, "line was", "lines were") == "2 lines were"


def test_a_refusal_names_the_nearest() -> None:
    known = ["threshold", "topk", "waiting_line/copy", "sampler.steps"]
    assert meant("treshold", known) == " (did you mean threshold?)"
    assert meant("copy", known) == meant("coppy", known) == " (did you mean waiting_line/copy?)"
    assert meant("steps", known) == " (did you mean sampler.steps?)"
    assert meant("zebra", known) == meant(3, known) == ""
    assert nearest("topk", ["topk", "topk_margin", "topp"], most=3)[0] == "topk"
    assert unknown_name("sampler", "tpok", known[:2]) == (
        "unknown sampler 'tpok' (did you mean topk?); known are threshold, topk"
    )
    assert not_among("format", "jsn", ("text", "json")) == (
        "format must be one of text, json, got 'jsn' (did you mean json?)"
    )
