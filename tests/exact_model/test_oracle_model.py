"""The oracle itself: its marginals, its ties, its tokens, and the whole way from a chat to a score."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
import torch

import dlm
import samplers
from dlm import tasks
from dlm.engine.loop import Decoder
from dlm.engine.result import RowResult
from dlm.errors import PromptError, SettingsError
from dlm.evaluation.asking import Asker, Query
from dlm.exact_model import (
    PositionTies,
    TokenTies,
    closed_forms,
    latin_question,
    list_question,
    oracle_model,
    sudoku_question,
)
from dlm.exact_model.check import tolerance
from dlm.exact_model.model import END, MASK
from dlm.exact_model.question import SolvedQuestion, agrees, question_of, stride
from dlm.exact_model.rollouts import roll, tokenizer_of
from dlm.exact_model.trajectories import marginals
from dlm.tasks.waiting_line import OPERATIONS

OPEN = ("shuffle", "replace_random", "insert_random", "remove_random")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_the_task_accepts_every_answer_of_the_oracle(operation: str, n: int) -> None:
    question = list_question(operation, n)
    assert agrees(question) and len(question.instance.meta["x"]) == n
    assert question.text(question.answers[-1]).startswith('["')


@pytest.mark.parametrize("operation", OPERATIONS)
def test_slots_are_where_the_task_s_template_has_them(operation: str) -> None:
    question = list_question(operation, 5)
    assert question.instance.template is not None
    assert question.pieces == question.instance.template.pieces
    assert {item for answer in question.answers for item in answer} <= set(question.instance.template.items)


@pytest.mark.parametrize("operation", OPEN)
def test_the_oracle_has_every_list_that_the_task_accepts(operation: str) -> None:
    question = list_question(operation, 3)
    items = sorted({item for answer in question.answers for item in answer} | set(question.instance.meta["x"]))
    lists = itertools.product(items, repeat=len(question.answers[0]))
    accepted = [y for y in lists if question.task.judge(question.instance, question.text(y)).score == 1]
    assert sorted(accepted) == sorted(question.answers)


def test_the_grids_are_those_the_tasks_accept() -> None:
    assert agrees(sudoku_question()) and agrees(latin_question(4))
    assert len(latin_question(4).answers) == 576


@pytest.mark.parametrize("operation", OPEN)
def test_marginals_are_those_of_the_answers_that_are_left(operation: str) -> None:
    question = list_question(operation, 4)
    model = oracle_model([question])
    ids = tokenizer_of(model).ids
    for known in itertools.combinations(range(len(question.answers[0])), 2):
        canvas = tuple(token if i in known else None for i, token in enumerate(question.answers[1]))
        row = [ids[t] if t is not None else MASK for t in question.written(canvas)]  # type: ignore[arg-type]
        start = tokenizer_of(model)(question.instance.prompt)["input_ids"]
        logits = model.backbone.head(model.backbone.hidden(torch.tensor([[*start, *row, MASK]])))[0]
        assert logits.dtype == torch.float64
        probs = logits.softmax(dim=1)
        assert probs[-1, END] == 1  # behind the answer
        for slot, law in zip(question.slots, marginals(question.answers, canvas), strict=True):
            want = torch.zeros(probs.shape[1], dtype=torch.float64)
            for token, p in law.items():
                want[ids[token]] = float(p)
            torch.testing.assert_close(probs[1 + slot], want, rtol=0, atol=1e-15)


def test_half_is_half_so_that_a_threshold_of_a_half_is_met() -> None:
    """Shuffle, the last two places: 1/2 >= 0.5, so that both are committed at once."""
    out = roll(list_question("shuffle", 3, "all_orders"), samplers.threshold(0.5, temperature=1.0), 50)
    assert out.forwards == {2: 50} and 0 < out.right < 50
    assert roll(list_question("shuffle", 3, "all_orders"), samplers.threshold(0.5 + 1e-9), 5).forwards == {3: 5}


def test_questions_share_a_batch_and_a_row_does_not_depend_on_it() -> None:
    questions = [list_question("shuffle", 4), list_question("insert_random", 5), list_question("remove_random", 3)]
    model = oracle_model(questions)
    chats = [q.instance.messages for q in questions for _ in range(7)]
    sampler = samplers.random(tokens_per_step=2, transforms=[TokenTies()], modifiers=[PositionTies()])
    wide, alone = (dlm.generate(model, chats, sampler=sampler, max_new_tokens=16, batch_size=size) for size in (21, 1))
    assert [o.tokens for o in wide] == [o.tokens for o in alone]
    assert len({o.text for o in wide[:7]}) > 1  # equal rows draw differently
    again = dlm.generate(model, chats[::-1], sampler=sampler, max_new_tokens=16, batch_size=4)
    assert sorted(o.text for o in again) == sorted(o.text for o in wide)


def test_a_chat_with_a_free_canvas_scores_like_the_formula() -> None:
    """No template: brackets, quotes and commas are decoded too, and end tokens fill the rest."""
    question = list_question("shuffle", 3, "all_orders")
    model, n = oracle_model([question]), 600
    out = dlm.generate(
        model, [question.instance.messages] * n, sampler=samplers.random(tokens_per_step=32, temperature=1.0),
        max_new_tokens=32, batch_size=200,
    )  # fmt: skip
    assert all(o.counts.forwards == 1 and o.text.startswith('["') and o.text.endswith('"]') for o in out)
    exact = float(closed_forms.shuffle_scored(3))
    found = sum(question.task.judge(question.instance, o.text).score for o in out) / n
    assert abs(found - exact) <= tolerance(exact, n)


@pytest.mark.parametrize(
    ("operation", "law", "rate"),
    [("shuffle", "all_orders", closed_forms.shuffle_scored), ("insert_random", "task", closed_forms.insert)],
)
def test_the_benchmark_asked_as_an_evaluation_asks_it_scores_like_the_formula(operation: str, law, rate) -> None:
    """Full names, worked example, infill form, the evaluation's own rows, the benchmark's parser and scorer."""
    task = tasks.open(f"parallelbench/waiting_line/{operation}")
    instances = [task.instance(i) for i in range(100)]
    model = oracle_model([question_of(task, instance, law) for instance in instances])
    asker = Asker(model, task, "infill", task.canvas)
    asked = [Query(one, i, seed) for seed in range(8) for i, one in enumerate(instances)]
    jobs = [asker.job(number, question) for number, question in enumerate(asked)]
    decoder = Decoder(model.backbone, model.description, samplers.random(tokens_per_step=32, temperature=1.0))
    rows = [event for event in decoder.run(jobs, 100, model.device) if isinstance(event, RowResult)]
    assert len(rows) == len(asked) and {row.counts.forwards for row in rows} == {1}
    verdicts = [task.judge(asked[row.index].instance, asker.text(row)) for row in rows]
    assert all(verdict.strict == verdict.score for verdict in verdicts)
    found, exact = sum(v.score for v in verdicts) / len(rows), float(sum(rate(n) for n in range(3, 7)) / 4)
    assert abs(found - exact) <= tolerance(exact, len(rows))


def test_infill_of_token_ids_fills_the_same_slots() -> None:
    question = list_question("remove_random", 4)
    model = oracle_model([question])
    tokenizer = tokenizer_of(model)
    [start] = tokenizer(question.instance.prompt)["input_ids"]
    row = [start, *(MASK if piece is None else tokenizer.ids[piece] for piece in question.layout)]
    outs = dlm.infill(model, [row] * 20, sampler=samplers.topk(temperature=1.0))
    answers = {question.text(answer) for answer in question.answers}
    assert {o.text for o in outs} <= answers and len({o.text for o in outs}) > 1
    assert all(question.task.judge(question.instance, o.text).score == 1 for o in outs)


def test_a_lost_row_gets_the_marginals_of_all_answers_and_scores_nothing() -> None:
    question = list_question("shuffle", 3)
    model = oracle_model([question])
    tokenizer = tokenizer_of(model)
    x = question.instance.meta["x"]
    [start] = tokenizer(question.instance.prompt)["input_ids"]
    row = [start, *(tokenizer.ids[t] if t else MASK for t in question.written([x[0], x[0], ""]))]
    probs = model.backbone.hidden(torch.tensor([row])).softmax(dim=2)[0]
    third = {tokenizer.ids[name]: share for name, share in zip(x, (0.4, 0.4, 0.2), strict=True)}
    assert {i: round(float(p), 12) for i, p in enumerate(probs[1 + question.slots[2]]) if p > 0} == third


def test_what_the_oracle_does_not_know_is_refused() -> None:
    question = list_question("copy", 3)
    model = oracle_model([question])
    with pytest.raises(PromptError, match="does not know the text"):
        dlm.generate(model, ["What is the time?"], sampler=samplers.topk(), max_new_tokens=4)
    with pytest.raises(SettingsError, match="begin with the token of a question"):
        dlm.generate(model, [[2, 3]], sampler=samplers.topk(), max_new_tokens=4)
    with pytest.raises(SettingsError, match="cache=none"):
        model.backbone.hidden(torch.tensor([[2, 3]]), torch.tensor([[0, 1]]))
    with pytest.raises(SettingsError, match="one prompt"):
        oracle_model([question, question])
    with pytest.raises(SettingsError, match="order must hold every item"):
        oracle_model([question], ["Nobody"])
    with pytest.raises(SettingsError, match="unknown operation 'sing'"):
        list_question("sing", 3)
    with pytest.raises(SettingsError, match="n must be 3 to 6"):
        list_question("copy", 7)
    with pytest.raises(SettingsError, match="not evenly spaced"):
        stride(latin_question(3))


def test_items_of_two_tokens_stand_side_by_side() -> None:
    question = list_question("insert_random", 3, "task", 2)
    assert agrees(question) and len(question.slots) == 8
    first, last = question.answers[0][:2]
    assert last.startswith(" ") and question.text(question.answers[0]).startswith(f'["{first}{last}", "')


def test_tied_tokens_are_taken_equally_often_and_others_never() -> None:
    question = SolvedQuestion(*_plain(), pieces=("", ""), answers=(("a",), ("b",), ("b",), ("c",), ("c",)))
    model, n = oracle_model([question]), 900
    rows = [question.instance.messages] * n
    texts = [o.text for o in dlm.generate(model, rows, sampler=samplers.topk(transforms=[TokenTies()]),
                                          max_new_tokens=1, batch_size=300)]  # fmt: skip
    assert set(texts) == {"b", "c"}
    assert abs(texts.count("b") / n - 0.5) <= tolerance(0.5, n)
    lowest = dlm.generate(model, rows[:5], sampler=samplers.topk(), max_new_tokens=1)
    assert {o.text for o in lowest} == {"b"}


def test_tied_places_are_taken_equally_often_and_a_surer_one_first() -> None:
    answers = tuple((*rest, last) for rest in itertools.product("ab", repeat=2) for last in "aab")
    question = SolvedQuestion(*_plain(), pieces=("", "", "", ""), answers=answers)
    model, n = oracle_model([question]), 900
    sampler = samplers.topk(modifiers=[PositionTies()], transforms=[TokenTies()])
    outs = dlm.generate(model, [question.instance.messages] * n, sampler=sampler, max_new_tokens=3, batch_size=300)
    assert all(o.commit_step[2] == 0 for o in outs)
    share = sum(o.commit_step[0] == 1 for o in outs) / n
    assert abs(share - 0.5) <= tolerance(0.5, n)
    plain = dlm.generate(model, [question.instance.messages], sampler=samplers.topk(), max_new_tokens=3)
    assert plain[0].commit_step == [1, 2, 0]


def test_tolerance_is_nothing_where_the_accuracy_is_settled() -> None:
    assert tolerance(0.0, 100) == tolerance(1.0, 100) == 0
    assert tolerance(float(Fraction(2, 9)), 20_000) == pytest.approx(0.0118, abs=5e-5)


def _plain():
    question = list_question("copy", 3)
    return question.task, question.instance
