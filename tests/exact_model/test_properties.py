"""Laws that hold for any set of answers (the bound of ParallelBench, arXiv 2510.04767, and what follows from it)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import isclose

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samplers
from dlm.exact_model import SolvedQuestion, list_question
from dlm.exact_model.answers import Answer
from dlm.exact_model.rollouts import roll
from dlm.exact_model.trajectories import drawn, lost_bits, marginals
from tests.exact_model.enumeration import Engine


@st.composite
def supports(draw: st.DrawFn, longest: int = 4) -> tuple[Answer, ...]:
    """Some answers of one length over three tokens."""
    length = draw(st.integers(2, longest))
    answer = st.tuples(*[st.sampled_from("abc")] * length)
    return tuple(draw(st.lists(answer, min_size=1, max_size=8, unique=True)))


@st.composite
def partitions(draw: st.DrawFn, length: int) -> list[list[int]]:
    """All positions, in blocks, in any order."""
    order = draw(st.permutations(range(length)))
    cuts = sorted(draw(st.sets(st.integers(1, length - 1))))
    return [list(order[a:b]) for a, b in zip([0, *cuts], [*cuts, length], strict=True)]


def probabilities(answers: Sequence[Answer], blocks: Sequence[Sequence[int]]) -> list[Fraction]:
    """How likely each answer comes out, blocks in this order."""
    found = []
    for answer in answers:
        known: set[int] = set()
        p = Fraction(1)
        for block in blocks:
            laws = marginals(answers, tuple(token if i in known else None for i, token in enumerate(answer)))
            for i in block:
                p *= laws[i][answer[i]]
            known |= set(block)
        found.append(p)
    return found


def question_of(answers: tuple[Answer, ...]) -> SolvedQuestion:
    """A question with these answers and a sign behind them."""
    about = list_question("copy", 3)
    return SolvedQuestion(about.task, about.instance, (*[""] * len(answers[0]), ">"), answers)


@given(st.data())
def test_accuracy_is_at_least_two_to_the_minus_lost_bits_and_equal_only_when_answers_come_alike(data) -> None:
    answers = data.draw(supports())
    blocks = data.draw(partitions(len(answers[0])))
    each = probabilities(answers, blocks)
    accuracy, bound = sum(each, Fraction(0)), 2 ** -lost_bits(answers, blocks)
    assert 0 < accuracy <= 1
    assert float(accuracy) >= bound * (1 - 1e-12)
    assert isclose(float(accuracy), bound, rel_tol=1e-9) == (len(set(each)) == 1)


@given(st.data())
def test_splitting_a_block_never_loses_more(data) -> None:
    answers = data.draw(supports())
    blocks = data.draw(partitions(len(answers[0])))
    coarse = lost_bits(answers, blocks)
    for i, block in enumerate(blocks):
        for cut in range(1, len(block)):
            finer = [*blocks[:i], block[:cut], block[cut:], *blocks[i + 1 :]]
            assert lost_bits(answers, finer) <= coarse + 1e-12


@given(st.data())
def test_one_position_a_block_loses_nothing_and_one_answer_never_does(data) -> None:
    answers = data.draw(supports())
    length = len(answers[0])
    order = data.draw(st.permutations(range(length)))
    assert sum(probabilities(answers, [[i] for i in order]), Fraction(0)) == 1
    assert lost_bits(answers, [[i] for i in order]) == pytest.approx(0, abs=1e-12)
    blocks = data.draw(partitions(length))
    assert probabilities(answers[:1], blocks) == [1]
    assert lost_bits(answers[:1], blocks) == 0


@settings(max_examples=12, deadline=None)
@given(supports(longest=3), st.integers(1, 3), st.booleans())
def test_the_loop_is_exact_on_any_answers(answers: tuple[Answer, ...], k: int, left_to_right: bool) -> None:
    length = len(answers[0])
    blocks = samplers.Fixed(length=min(k, length)) if left_to_right else samplers.Whole()
    sampler = samplers.random(tokens_per_step=k, temperature=1.0, blocks=blocks)
    sizes = [min(k, length - done) for done in range(0, length, k)]
    want = drawn(answers, sizes, "left_to_right" if left_to_right else "random")
    outcome = Engine(question_of(answers), sampler, False).outcome()
    assert outcome.all == 1
    assert outcome.right == want
    assert outcome.forwards == {len(sizes): want}


@settings(max_examples=10, deadline=None)
@given(supports(), st.integers(1, 4))
def test_steps_commit_every_position_once(answers: tuple[Answer, ...], k: int) -> None:
    question = question_of(answers)
    sampler = samplers.random(tokens_per_step=k, temperature=1.0)
    out = roll(question, sampler, 8)
    assert out.forwards == {-(-len(answers[0]) // k): 8}
    if k == 1 or len(answers) == 1:
        assert out.right == 8
