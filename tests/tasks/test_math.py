"""MATH: how answers are found and compared, held against recorded verdicts of others."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm import tasks
from dlm.errors import SettingsError
from dlm.evaluation.asking import plain_text
from dlm.tasks.latex import boxed, normal, phrased, same

DATA = Path(__file__).parent.parent / "data" / "math"
PAIRS = [json.loads(line) for line in (DATA / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
PROBLEMS = str(DATA / "problems.jsonl")


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair['right']} | {pair['answer']}")
def test_the_checker_agrees_with_math_verify(pair: dict[str, object]) -> None:
    """Verdicts of math_verify 0.9.0 (sympy 1.14); where ours is another, the pair says which and why."""
    wanted = pair.get("ours", pair["math_verify"])
    assert same(str(pair["answer"]), str(pair["right"])) is wanted
    assert same(str(pair["right"]), str(pair["answer"])) is wanted


def test_what_the_harness_takes_for_equal_is_equal_here() -> None:
    """``is_equiv`` of lm-evaluation-harness 0.4.13 (antlr 4.11) cannot read tuples, intervals and matrices, and
    reads ``3, 5, 7`` like ``3,5``."""
    lost = [p["right"] for p in PAIRS if p["harness"] and not same(p["answer"], p["right"])]
    assert lost == ["1011_2", r"\binom{5}{2}", "3, 5, 7", r"\overline{AB}", "101_2", "2:3"]
    assert len(PAIRS) >= 60 and sum(p["harness"] for p in PAIRS) > 40


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (r"2\pi r", r"2r\pi", True),
        (r"\pi r", r"\pi", False),
        (r"\boxed{3}", "3", True),
        ("14 + 8*sqrt(3)", r"14+8\sqrt3", True),
        ("(x,y)=(1,2)", "(1,2)", True),
        ("seat", "east", False),
        (r"\frac{3}{4} \text{ of a mile}", "0.75", True),
        ("9^{9^{9^9}}", "1", False),
        ("(" * 200, ")", False),
        (r"\frac{1}{0}", r"\frac{2}{0}", False),
        ("", "", False),
    ],
)
def test_forms(one: str, other: str, wanted: bool) -> None:
    assert same(one, other) is same(other, one) is wanted


@given(st.text(alphabet="\\fracsqrt{}[]()^_0123456789+-,.xy $%&|!", max_size=60))
def test_any_text_has_a_verdict(text: str) -> None:
    assert normal(normal(text)) is not None
    assert same(text, "1") is same("1", text)


def test_a_long_answer_takes_no_long_time() -> None:
    started = time.perf_counter()
    for text in ("5 " + "cm     " * 60 + "x", "5\\text{" * 150, "5" + " " * 900 + "x", "x=" * 450, "\\text{ a" * 120):
        assert not same(text, "7")
    for text in ("(" * 100_000, "\\frac{1}" * 50_000, "\\boxed{" * 20_000, "9" * 100_000, "a, " * 50_000):
        assert not same(text, "7")
        boxed(text), phrased(text)
    assert time.perf_counter() - started < 5


def test_where_an_answer_stands() -> None:
    assert boxed(r"\boxed{1} then \boxed{\frac{1}{2}} and \boxed{3") == r"\frac{1}{2}"
    assert boxed(r"so \fbox{7} it is") == "7" and boxed(r"$\boxed 5$ it is") == "5"
    assert phrased("Final Answer: The final answer is $-\\frac{2}{3}$. I hope it is correct.") == r"-\frac{2}{3}"
    assert phrased("The final answer is **12**.") == "12" and phrased("nothing") is None


def test_the_two_forms() -> None:
    minerva, chat = tasks.open("minerva_math", path=PROBLEMS), tasks.open("math500", path=PROBLEMS)
    assert (minerva.size, chat.size, minerva.canvas) == (3, 3, 512)
    assert minerva.identity != chat.identity
    first = chat.instance(0)
    assert first.messages == [{"role": "user", "content": first.prompt}]
    assert first.prompt.endswith(
        "What is its slope?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )
    assert len(minerva.instance(0).messages) == 9
    assert plain_text(minerva, minerva.instance(0)).count("I hope it is correct.") == 4
    for task in (minerva, chat):
        assert task.judge(first, "The slope comes to 3.").score == 1
        for i in range(3):
            assert task.judge(task.instance(i), task.instance(i).target).score == 1


@pytest.mark.parametrize(
    ("output", "minerva", "chat", "error"),
    [
        (r"It is $\boxed{\frac23}$.", (1, 0), (1, 1), None),
        ("Final Answer: The final answer is $2/3$. I hope it is correct.", (1, 0), (1, 0), None),
        (r"Final Answer: The final answer is $\dfrac{2}{3}$. I hope it is correct.", (1, 1), (1, 0), None),
        ("It comes to 7", (0, 0), (0, 0), "wrong"),
        ("It is \\boxed{0.67}\n\nProblem:\nAnother\n\nSolution: \\boxed{2/3}", (0, 0), (0, 0), "wrong"),
        ("I do not know.", (0, 0), (0, 0), "no_answer"),
    ],
)
def test_verdicts(output: str, minerva: tuple[int, int], chat: tuple[int, int], error: str | None) -> None:
    for name, (score, strict) in (("minerva_math", minerva), ("math500", chat)):
        task = tasks.open(name, path=PROBLEMS)
        verdict = task.judge(task.instance(1), output)
        assert (verdict.score, verdict.strict, verdict.error) == (score, strict, error)


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"task\.shots must be a whole number from 0 to 4, got 5"):
        tasks.open("minerva_math", path=PROBLEMS, shots=5)
    file = tmp_path / "math.jsonl"
    file.write_text('{"problem": "x", "solution": "no box"}\n')
    with pytest.raises(SettingsError, match=r"record 1: the solution must hold its answer in \\boxed"):
        tasks.open("math500", path=str(file))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"0.\overline{3}", r"0.\overline{7}"), (r"0.\overline{3}", "0"), (r"x\le 3", r"3\le x"),
        (r"3\le x\le 5", r"5\le x\le 3"), (r"\binom{5}{2}", r"\binom{2}{5}"), (r"5\mod 3", r"3\mod 5"),
        (r"p\to q", r"q\to p"), ("f(2)", "2f"), ("P(A)", "AP"),
    ],
)  # fmt: skip
def test_what_a_command_does_to_its_neighbours_is_not_guessed(one: str, other: str) -> None:
    assert same(one, one) and same(other, other) and not same(one, other)


def test_a_function_takes_a_number_and_its_letter() -> None:
    assert same(r"\sin 2x", r"\sin(2x)") and same(r"2\alpha", r"\alpha+\alpha")
    assert not same(r"\sin 2x", r"x\sin 2")
