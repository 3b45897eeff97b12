"""Grammar back ends: what they accept, what they find, and what happens when one is not there."""

import re
import stat
from importlib.util import find_spec

import pytest

from dlm.errors import SettingsError
from dlm.tasks.text import extras, open_text
from dlm.tasks.text.grammar import Basic, Harper, open_grammar

BASIC, HARPER = Basic(), Harper()
SENTENCES = [question.target for question in open_text("parallelbench/text/paraphrase").questions]
SUMMARIES = [question.target for question in open_text("parallelbench/text/summarise").questions]


def kinds(issues):
    return [issue.kind for issue in issues]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", ["empty"]),
        (" \n ", ["empty"]),
        ("The dog barks.", []),
        ("the dog barks.", ["capital"]),
        ("The dog barks", ["final_mark"]),
        ('"The dog barks!"', []),
        ("42 dogs bark.", []),
        ("The the dog barks.", ["repeated_word"]),
        ("The dog barks, barks and barks.", []),
        ("All that he had had was gone.", []),
        ("It is is a dog.", ["repeated_word"]),
        ("He sat on a chair at an table.", ["article"]),
        ("A hour ago an horse and an unicorn met.", ["article", "article", "article"]),
        ("An honest man at a university took a one-way street for an hour.", []),
        ("Vitamin A is good, and plan B is an FBI plan.", []),
        ("The dog \x07 barks.", ["broken_character"]),
        ("The dog \ufffd barks.", ["broken_character"]),
        ("The dog 犬犬 barks at собака.", ["foreign_script", "foreign_script"]),
        ("The caf\u00e9 in \u0141\u00f3d\u017a is open.", []),
        ("...", ["no_words"]),
        ("3 + 4 = 7.", ["no_words"]),
    ],
)
def test_the_basic_rules(text, wrong):
    found = BASIC.check(text)
    assert kinds(found) == wrong
    assert all(text[issue.start : issue.end] == issue.text for issue in found)


def test_basic_accepts_all_our_texts_and_no_doubled_word_in_them():
    for sentence in SENTENCES + SUMMARIES:
        assert BASIC.check(sentence) == []
        for word in re.finditer(r"(?<![\w'-])[a-z]+(?= )", sentence):
            if word[0] not in ("had", "that"):
                doubled = f"{sentence[: word.end()]} {word[0]}{sentence[word.end() :]}"
                assert kinds(BASIC.check(doubled)) == ["repeated_word"], doubled


def test_basic_finds_every_wrong_article_in_our_texts():
    swapped = {"a": "an", "an": "a", "A": "An", "An": "A"}
    broken = [
        text[: found.start()] + swapped[found[0]] + text[found.end() :]
        for text in SENTENCES + SUMMARIES
        for found in re.finditer(r"\b[Aa]n?(?= [a-z])", text)
    ]
    assert len(broken) > 60
    assert all("article" in kinds(BASIC.check(text)) for text in broken)


def test_harper_accepts_nearly_all_our_sentences():
    rejected = [sentence for sentence in SENTENCES if HARPER.check(sentence)]
    assert len(rejected) <= 1


@pytest.mark.parametrize(
    "text",
    ["He go home.", "I has a car.", "She have two dogs.", "He is a informed man.", "The the cat sat.", 
     "We met teh dog.", "the man who lives here is nice.", "", "\u72ac"],
)  # fmt: skip
def test_harper_finds_what_is_wrong(text):
    assert HARPER.check(text)


@pytest.mark.parametrize(
    "text",
    ["The colour of the harbour.", "The color of the harbor.", "Farmers grow onions, carrots and beans.",
     "We met Wojciech there.", "The hair dryer broke."],
)  # fmt: skip
def test_harper_minds_neither_the_side_of_the_ocean_nor_taste_nor_names(text):
    assert HARPER.check(text) == []


def test_what_is_not_installed_is_said_at_once(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "harper" else find_spec(name))
    assert open_grammar("auto") == Basic()
    for backend in ("harper", "full"):
        with pytest.raises(SettingsError, match=rf"task\.grammar={backend} needs .*pip install 'dlm\[eval\]'"):
            open_grammar(backend)
    with pytest.raises(SettingsError, match="must be one of auto, basic, harper, full, got 'java'"):
        open_grammar("java")


# What link-parser 5.12 prints with our options: a sentence with "on the" at its end has no linkage.
PROGRAM = """#!/bin/sh
if [ "$1" = --version ]; then echo "Version: link-grammar-5.12.0"; exit; fi
[ -e "$0.broken" ] && { echo "Fatal error: no dictionary" >&2; exit 1; }
echo "verbosity set to 1"
while read -r line; do
    [ "$line" = "Be silent." ] && continue
    case "$line" in
        *"on the"[.!?]*) echo "No complete linkages found." ;;
        *) echo "Found 2 linkages (2 had no P.P. violations)"; echo "	Linkage 1, cost vector = (UNUSED=0)" ;;
    esac
done
echo "Bye."
"""


@pytest.fixture
def link_parser(tmp_path, monkeypatch):
    program = tmp_path / "link-parser"
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


def test_full_asks_link_grammar_too_sentence_by_sentence(link_parser):
    grammar = open_grammar("full")
    assert grammar.backend == "full"
    assert set(grammar.versions) == {"harper-py", "link-parser"}
    text = "The cat sat there. The cat mat sat on the. !exit. It slept!"
    assert [(i.source, i.text) for i in grammar.check(text) if i.source == "link"] == [
        ("link", "The cat mat sat on the.")
    ]
    assert kinds(grammar.check("It sleeps" + " well" * 59 + "."))[-1:] == ["too_long"]


def test_a_link_parser_that_fails_is_an_error_and_no_score(link_parser, monkeypatch):
    grammar = open_grammar("full")
    with pytest.raises(SettingsError, match="answered 1 of 2 sentences"):
        grammar.check("The cat sat there. Be silent.")
    link_parser.with_name("link-parser.broken").touch()
    with pytest.raises(SettingsError, match=r"link-parser failed, .* no dictionary"):
        grammar.check("The cat sat there.")
    with pytest.raises(SettingsError, match="link-parser failed"):
        open_grammar("full")
    monkeypatch.setenv("PATH", str(link_parser.parent / "empty"))
    with pytest.raises(SettingsError, match="needs the program link-parser"):
        open_grammar("full")
