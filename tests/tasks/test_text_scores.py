"""Scores of texts: figures worked out by hand, and what must not change them."""

import math

import pytest

from dlm.errors import SettingsError
from dlm.tasks.text import scores


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("The sun is out.", True),
        ("SUN!", True),
        ("Two suns rose.", True),
        ("The sun's rays.", True),
        ("A sun-dried tomato.", True),
        ("A sunny day.", False),
        ("Sunday came.", False),
        ("", False),
    ],
)
def test_a_word_counts_when_it_stands_there_whole(text, there):
    assert scores.inclusion(text, ["sun"]) == there


def test_the_published_rule_finds_words_inside_words_and_minds_capitals():
    assert scores.inclusion_substring("A sunny day.", ["sun"]) == 1
    assert scores.inclusion_substring("Sun and sea.", ["sun", "sea"]) == 0


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("stop", "stops stopped stopping"),
        ("visit", "visits visited visiting"),
        ("begin", "begins beginning"),
        ("hope", "hopes hoped hoping"),
        ("carry", "carries carried carrying"),
        ("play", "plays played playing"),
        ("die", "dies died dying"),
        ("see", "sees seeing"),
        ("box", "boxes boxed boxing"),
        ("leaf", "leaves"),
        ("knife", "knives"),
    ],
)
def test_regular_inflections_are_known(word, forms):
    assert set(forms.split()) <= scores.inflections(word)


@pytest.mark.parametrize(
    ("word", "other"),
    [("hop", "hoping"), ("star", "stared"), ("see", "seed"), ("paint", "painter"), ("car", "care"), ("tin", "tiny")],
)
def test_other_words_are_no_inflections(word, other):
    assert other not in scores.inflections(word)


def test_inclusion_is_the_share_and_never_falls_when_a_word_is_added():
    words = ["dog", "ball", "ice-cream", "run"]
    text, shares = "", []
    for more in ("dogs ", "ran ", "a ball ", "ice creams ", "running"):
        text += more
        shares.append(scores.inclusion(text, words))
    assert shares == [0.25, 0.25, 0.5, 0.75, 1.0]
    assert scores.inclusion("cream ice dog ball run", words) == 0.75


def test_rouge_by_hand():
    # Stems: the cat sat | a cat sat down. Two words, one pair and a subsequence of two are shared.
    assert scores.rouge("the cats sat", "a cat sat down") == pytest.approx(
        {"rouge1": 4 / 7, "rouge2": 2 / 5, "rougeL": 4 / 7}
    )
    assert scores.rouge("sat cat", "cat sat") == pytest.approx({"rouge1": 1.0, "rouge2": 0.0, "rougeL": 0.5})
    assert set(scores.rouge("", "cat").values()) == {0.0}


def test_bleu_by_hand():
    source = "the cat sat on the mat"
    assert scores.bleu(source, source) == 1.0
    assert scores.bleu(f"{source} today", source) == pytest.approx((6 / 7 * 5 / 6 * 4 / 5 * 3 / 4) ** 0.25)
    assert scores.bleu("the cat sat on", source) == pytest.approx(math.exp(1 - 6 / 4))  # all right, but too short
    assert scores.bleu("the cat sat down.", "the cat sat down") == pytest.approx(
        (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    )


@pytest.mark.parametrize("text", ["", "the cat sat", "the mat on the cat sat", "The Cat Sat On The Mat"])
def test_bleu_without_four_tokens_in_a_row_is_nothing(text):
    assert scores.bleu(text, "the cat sat on the mat") == 0.0


def test_chrf_by_hand():
    # Runs of one: precision 1, recall 2/3. Runs of two: 1 and 1/2. Means 1 and 7/12; F2 = 5PR / (4P + R).
    assert scores.chrf("ab", "abc") == pytest.approx(5 * (7 / 12) / (4 + 7 / 12))
    assert scores.chrf("abc", "abc") == 1.0
    assert scores.chrf("", "abc") == scores.chrf("xyz", "abc") == 0.0


@pytest.mark.parametrize("name", ["bleurt", "no.such.module", "math.pi", "dlm.nothing", ""])
def test_a_similarity_that_is_no_function_is_refused(name):
    with pytest.raises(SettingsError, match=r"task\.similarity must"):
        scores.open_similarity(name)
