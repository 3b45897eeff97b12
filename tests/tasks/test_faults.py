"""What is wrong with a wrong list, in one word."""

import pytest

from dlm.tasks.lists import ListQuestion, judge_list, render

X = ["Anna Lee", "Ben Cox", "Tom Hill"]
W = "Zoe Ward"
SHUFFLE = ListQuestion("shuffle", X, "", ["Tom Hill", "Ben Cox", "Anna Lee"])
REVERSE = ListQuestion("reverse", X, "", X[::-1])
INSERT = ListQuestion("insert_random", X, W, [*X, W])
REPLACE = ListQuestion("replace_random", X, W, [W, *X[1:]])
REMOVE = ListQuestion("remove_index", X, "", X[1:])
SHORT = ListQuestion("shuffle", ["Anna", "Bob", "Cleo"], "", ["Bob", "Anna", "Cleo"])

CASES = [
    (SHUFFLE, "", "unparsable"),
    (SHUFFLE, "[]", "unparsable"),
    (SHUFFLE, "I am sorry, I cannot, really", "unparsable"),
    (SHUFFLE, "no idea", "unparsable"),
    (SHUFFLE, render(X), "unchanged"),
    (SHUFFLE, render([*X, X[0]]), "wrong_count"),
    (SHUFFLE, render(X[:2]), "wrong_count"),
    (SHUFFLE, render(["Ben Cox", "Ben Cox", "Tom Hill"]), "duplicate"),
    (SHUFFLE, render(["Ben Hill", "Anna Lee", "Tom Hill"]), "chimera"),
    (SHUFFLE, render(["Ben Hill", "Max Moore", "Tom Hill"]), "chimera"),
    (SHUFFLE, render(["Max Moore", "Anna Lee", "Tom Hill"]), "foreign"),
    (SHUFFLE, render(["Ben", "Anna Lee", "Tom Hill"]), "foreign"),
    (SHUFFLE, "[“Ben Cox”, “Anna Lee”, “Tom Hill”]", "foreign"),  # curly quotes are part of the names
    (SHORT, render(["Zoe", "Anna", "Bob"]), "foreign"),  # short forms have no second names to mix
    (REVERSE, render(X), "unchanged"),
    (REVERSE, render([X[1], X[2], X[0]]), "wrong_position"),
    (INSERT, render(X), "unchanged"),
    (INSERT, render([X[1], X[0], W, X[2]]), "wrong_position"),
    (INSERT, render([W, W, X[0], X[1]]), "duplicate"),
    (INSERT, render(["Zoe Hill", *X]), "chimera"),
    (REPLACE, render(X), "unchanged"),
    (REPLACE, render([X[1], X[2], X[0]]), "wrong"),  # reordered, and nobody gave the place
    (REPLACE, render([X[1], W, X[2]]), "wrong_position"),
    (REPLACE, render([W, W, X[2]]), "duplicate"),
    (REMOVE, render(X), "unchanged"),
    (REMOVE, render(X[:2]), "wrong_position"),
    (REMOVE, render(X[:1]), "wrong_count"),
]


@pytest.mark.parametrize(("asked", "answer", "error"), CASES)
def test_the_error_of_a_wrong_answer(asked, answer, error):
    verdict = judge_list(asked, answer)
    assert (verdict.score, verdict.error) == (0.0, error)
    assert verdict.strict == 0.0


@pytest.mark.parametrize("asked", [SHUFFLE, REVERSE, INSERT, REPLACE, REMOVE, SHORT])
def test_a_right_answer_has_no_error(asked):
    verdict = judge_list(asked, f"Here: {render(asked.target)}.")
    assert (verdict.score, verdict.strict, verdict.error, verdict.parsed) == (1.0, 1.0, None, asked.target)


def test_the_strict_score_wants_the_rendering_the_loose_one_does_not():
    verdict = judge_list(REVERSE, "Tom Hill, Ben Cox, Anna Lee")
    assert (verdict.score, verdict.strict, verdict.error) == (1.0, 0.0, None)


def test_the_parsers_may_read_different_lists():
    """A quote within an item stays for the loose parser; the strict one refuses the list."""
    verdict = judge_list(REVERSE, '["Tom Hill", "Ben" Cox", "Anna Lee"]')
    assert (verdict.score, verdict.strict, verdict.error) == (0.0, 0.0, "foreign")
