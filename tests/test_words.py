"""Texts for a person: nothing that commands a terminal reaches one."""

from __future__ import annotations

import pytest

from dlm.words import counted, visible


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
