"""The parsers, case by case, and that no answer makes them slow or large."""

import json
import time

import pytest

from dlm import tasks
from dlm.tasks.lists import render
from dlm.tasks.reading import (
    loose_digits,
    loose_list,
    loose_rows,
    published_list,
    strict_digits,
    strict_list,
    strict_rows,
)

# answer, what the loose parser reads, what the strict one reads
LISTS = [
    ('["Anna", "Bob"]', ["Anna", "Bob"], ["Anna", "Bob"]),
    ('Here it is: ["Anna", "Bob"] Enjoy!', ["Anna", "Bob"], ["Anna", "Bob"]),
    ('Sure: ["Zoe"] or rather ["Anna", "Bob"] I think', ["Anna", "Bob"], ["Anna", "Bob"]),
    ('["Anna", "Bob"', ["Anna", "Bob"], None),
    ('"Anna", "Bob"]', ["Anna", "Bob"], None),
    ("Anna, Bob", ["Anna", "Bob"], None),
    ("[Anna, Bob]", ["Anna", "Bob"], None),
    ('["Anna","Bob"]', ["Anna", "Bob"], None),
    ('["Anna", , "Bob", ]', ["Anna", "Bob"], None),
    ('[\n"Anna",\n"Bob"\n]', ["Anna", "Bob"], None),
    ('["Anna, Bob"]', ["Anna", "Bob"], None),
    ("[“Anna”, “Bob”]", ["“Anna”", "“Bob”"], None),
    ("['Anna', 'Bob']", ["'Anna'", "'Bob'"], None),
    ('["Ann"a", "Bob"]', ['Ann"a', "Bob"], None),
    ('["Anna"] and ["', [], None),
    ('["Anna"', ["Anna"], None),
    ("[]", [], None),
    ("", [], None),
    ('["]', [], None),
]


@pytest.mark.parametrize(("text", "loose", "strict"), LISTS)
def test_lists(text, loose, strict):
    assert loose_list(text) == loose
    assert strict_list(text) == strict


def test_rendering_is_read_back():
    assert strict_list(render(["Anna Lee", "Bob"])) == loose_list(render(["Anna Lee", "Bob"])) == ["Anna Lee", "Bob"]


def test_where_the_published_parser_differs():
    assert published_list('["Anna",\n"Bob"\n]') == ["Anna", '\n"Bob"\n']
    assert published_list('["Anna", "", "Bob", ]') == ["Anna", "", "Bob"]
    for text, loose, _ in LISTS:
        if "\n" not in text and text != '["Anna"] and ["' and text != '["]':
            assert published_list(text) == loose


GRID = ["1234", "3412", "2143", "4321"]


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        ("1234\n3412\n2143\n4321", GRID, GRID),
        ("  1234\n3412 \n\n2143\n4321\n", GRID, GRID),
        ("1 2 3 4\n3,4,1,2\n2143\n4321", GRID, None),
        ("Answer:\n|1|2|3|4|\n3412\n2143\n4321\nDone.", GRID, None),
        ("1234\n3412\n2143", None, None),
        ("1234\n3412\n2143\n4321\n1234", None, None),
        ("12345\n1234\n3412\n2143\n4321", GRID, None),
        ("١٢٣٤\n3412\n2143\n4321", None, None),  # digits, but not ours
        ("", None, None),
    ],
)
def test_digits(text, loose, strict):
    assert loose_digits(text) == loose
    assert strict_digits(text) == strict


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        ("A,B\nB,A", [["A", "B"], ["B", "A"]], [["A", "B"], ["B", "A"]]),
        ("A, B\nB ,A", [["A", "B"], ["B", "A"]], None),
        ("The square:\nA,B\nB,A\nA,B", [["A", "B"], ["B", "A"]], None),
        ("A,B\nA,A\nB,A", [["A", "B"], ["B", "A"]], None),
        ("A,A,B\nB,A", [["A", "A", "B"], ["B", "A"]], None),
        ("a,b\nb,a", [], None),
        ("", [], None),
    ],
)
def test_rows(text, loose, strict):
    assert loose_rows(text, ["A", "B"]) == loose
    assert strict_rows(text, ["A", "B"]) == strict


HUGE = [
    "[",
    "]",
    ",",
    '"',
    "a,",
    '["a", ',
    " ",
    "x",
    "1",
    "\n",
    "1234\n",
    "A,B\n",
    "The answer is ",
    "A went to the ",
    "é",
]
NAMES = [
    "waiting_line/shuffle",
    "arithmetic/addition",
    "math/word_problem",
    "text/story",
    "parallelbench/waiting_line/insert_random",
    "parallelbench/puzzle/latin_square",
    "parallelbench/puzzle/sudoku",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_of_any_length_is_judged_at_once_and_little_of_it_is_kept(name):
    task = tasks.open(name)
    instance = task.instance(0)
    for piece in HUGE:
        answer = piece * (100_000 // len(piece))
        seconds = []
        for _ in range(3):
            start = time.process_time()
            verdict = task.judge(instance, answer)
            seconds.append(time.process_time() - start)
        assert verdict.score == 0
        assert verdict.error
        assert len(json.dumps(verdict.parsed)) < 5000
        assert min(seconds) < 0.1, piece  # milliseconds; a quadratic parser needs seconds
