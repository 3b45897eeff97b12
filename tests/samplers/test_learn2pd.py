"""Learn2PD: the filter, its file, the selector beside the rules it contains, and the oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cache
import dlm
import dlm.tasks
import samplers
from dlm.engine.proposal import Proposal
from dlm.errors import CheckpointError, SettingsError
from dlm.training.filter_file import Filter, block_inputs, read_filter, write_filter
from samplers.presets.learn2pd import learn2pd, oracle
from tests.doubles import ScriptedBackbone, confidence_table, random_dream, random_llada, table_model, wrap
from tests.samplers.runs import blank_canvas, blocks_of, commits, decode, outcome, view_of

MODELS = {"llada": random_llada(), "dream": random_dream()}
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6], [5], [3, 5, 8, 9, 7, 9, 3]]


def constant(logit: float, n: int = 4) -> Filter:
    """A filter that does not look."""
    return Filter(torch.zeros(1, n), torch.zeros(1), torch.zeros(n, 1), torch.full((n,), logit), "masked_probability")


def linear(rows: list[list[float]], bias: list[float], **more: Any) -> Filter:
    """Logits rows @ confidences + bias, for confidences that are not negative."""
    n = len(bias)
    return Filter(torch.eye(n), torch.zeros(n), torch.tensor(rows), torch.tensor(bias), **more)


@pytest.mark.parametrize("inputs", ["masked_probability", "probability"])
@pytest.mark.parametrize("policy", ["none", "dual", "dkv_decode"])
@pytest.mark.parametrize("family", MODELS)
def test_a_filter_that_knows_a_threshold_is_the_threshold_rule(family: str, policy: str, inputs: Any) -> None:
    filter = replace(Filter.of_threshold(0.3, 4), inputs=inputs)
    for sampler in (samplers.threshold(0.3), learn2pd(filter)):
        sampler = replace(sampler, blocks=samplers.Fixed(4))
        answers = dlm.generate(
            MODELS[family], PROMPTS, sampler=sampler, cache=getattr(cache, policy)(), max_new_tokens=10, batch_size=3
        )
        results = [outcome(answer) for answer in answers]
        if sampler.name == "threshold":
            expected = results
    assert results == expected
    assert min(forwards for _, _, forwards in results) < 10  # the rule does commit several at once


@pytest.mark.parametrize(("tokens_per_step", "logit", "forwards"), [(1, -50.0, 10), (2, -50.0, 5), (1, 50.0, 3)])
def test_a_filter_that_refuses_all_is_the_budget_and_one_that_takes_all_fills_blocks(
    tokens_per_step: int, logit: float, forwards: int
) -> None:
    blocks = samplers.Fixed(4)
    for prompt in PROMPTS:
        mine = learn2pd(constant(logit), tokens_per_step=tokens_per_step, blocks=blocks)
        answer = dlm.generate(MODELS["llada"], [prompt], sampler=mine, max_new_tokens=10)[0]
        assert answer.counts.forwards == forwards
        if logit < 0:
            fixed = samplers.topk(tokens_per_step=tokens_per_step, blocks=blocks)
            assert outcome(dlm.generate(MODELS["llada"], [prompt], sampler=fixed, max_new_tokens=10)[0]) == outcome(
                answer
            )


def test_worked_example_with_a_filter_that_looks_at_a_neighbour() -> None:
    """Positions 1 and 2 wait for the first, which counts 1 once it is committed; position 3 never is final."""
    rows = [[0.0] * 4, [10.0, 0.0, 0.0, 0.0], [10.0, 0.0, 0.0, 0.0], [0.0] * 4]
    filter = linear(rows, [-9.0, -7.0, -9.5, -9.0], inputs="masked_probability")
    model = table_model(confidence_table([0.8, 0.6, 0.7, 0.3]))
    # First forward: logits 8 - 7 = 1 and 8 - 9.5 < 0, so 1 is final and 0 is the surest. Then 0 counts 1: .5 for 2.
    assert commits(model, learn2pd(filter, threshold=0.6, blocks=samplers.Fixed(4)), 4) == [{0, 1}, {2}, {3}]
    assert commits(model, learn2pd(filter, threshold=0.8, blocks=samplers.Fixed(4)), 4) == [{0}, {1, 2}, {3}]


def test_the_threshold_is_strict_and_comes_from_the_file_when_none_is_given() -> None:
    model = table_model(confidence_table([0.8, 0.7, 0.6, 0.5]))
    uniform_feed = constant(0.0)
    assert len(commits(model, learn2pd(uniform_feed, threshold=0.5), 4)) == 4
    assert len(commits(model, learn2pd(uniform_feed, threshold=0.49), 4)) == 1
    assert len(commits(model, learn2pd(replace(uniform_feed, threshold=0.4)), 4)) == 1
    assert len(commits(model, learn2pd(uniform_feed), 4)) == 4  # 0.96


def test_what_a_modifier_puts_last_is_not_final() -> None:
    model = table_model([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])  # 0 ends the text
    assert commits(model, learn2pd(constant(9.0)), 3) == [{0, 1, 2}]
    assert commits(model, learn2pd(constant(9.0), suppress_end=True), 3) == [{1, 2}, {0}]


def test_inputs_of_a_block_by_hand() -> None:
    view = view_of([0.9, 0.5, 0.4])
    canvas = view.canvas
    canvas.tokens[0, 1] = 7  # committed
    entropy = torch.tensor([[0.2, 0.6, 1.1]])
    view = replace(
        view,
        proposal=Proposal(view.proposal.token, view.proposal.prob, None, entropy),
        eligible=torch.tensor([[True, False, True]]),
    )
    shown = {
        kind: block_inputs(view, kind, 5, canvas.masked)[0].tolist()  # type: ignore[arg-type]
        for kind in ("probability", "masked_probability", "negative_entropy")
    }
    assert shown["probability"] == pytest.approx([0.9, 0.5, 0.4, 0, 0])
    assert shown["masked_probability"] == pytest.approx([0.9, 1.0, 0.4, 0, 0])
    assert shown["negative_entropy"] == pytest.approx([-0.2, 0.0, -1.1, 0, 0])


def test_a_position_the_forward_did_not_show() -> None:
    canvas = blank_canvas(4)
    canvas.tokens[0, 0] = 7
    view = view_of([0.9, 0.5])
    positions = torch.tensor([[1, 2]])
    view = replace(view, canvas=canvas, blocks=blocks_of(canvas), positions=positions)
    for kind, first in (("probability", 1.0), ("masked_probability", 1.0)):
        shown = block_inputs(view, kind, 4, canvas.masked)[0].tolist()  # type: ignore[arg-type]
        assert shown == pytest.approx([first, 0.9, 0.5, 0.0])


def test_entropy_filters_are_ranked_by_entropy() -> None:
    filter = replace(constant(-9.0), inputs="negative_entropy")
    sampler = learn2pd(filter, blocks=samplers.Fixed(4))
    assert sampler.needs == {"prob", "entropy"}
    alike = samplers.entropy(blocks=samplers.Fixed(4))
    got, expected = (dlm.generate(MODELS["dream"], PROMPTS, sampler=s, max_new_tokens=9) for s in (sampler, alike))
    assert [outcome(a) for a in got] == [outcome(a) for a in expected]


def test_the_published_size_and_shorter_blocks() -> None:
    """Final once the block's confidences add up to 10.75: what is behind the block must count nothing."""
    filter = Filter(torch.ones(32, 32), torch.zeros(32), torch.ones(32, 32), torch.full((32,), -32 * 10.75))
    filter = replace(filter, inputs="masked_probability")
    assert (filter.parameters, filter.block_length) == (2112, 32)
    steps = commits(table_model(confidence_table([0.5] * 20)), learn2pd(filter, threshold=0.5), 20)
    assert [len(step) for step in steps] == [1, 1, 18]


def test_the_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "filter.safetensors"
    filter = replace(Filter.of_threshold(0.7, 4), threshold=0.8, card={"model": "x"})
    write_filter(path, filter)
    back = read_filter(path)
    assert (back.inputs, back.threshold, back.card) == ("masked_probability", 0.8, {"model": "x"})
    assert all(torch.equal(a, b) for a, b in zip(filter.weights, back.weights, strict=True))
    assert [p.name for p in path.parent.iterdir()] == ["filter.safetensors"]
    model = table_model(confidence_table([0.9, 0.8, 0.6, 0.5]))
    assert commits(model, learn2pd(path), 4) == commits(model, learn2pd(filter), 4) == [{0, 1}, {2}, {3}]


def test_a_file_that_does_not_say_its_inputs_is_told(tmp_path: Path) -> None:
    names = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    plain = tmp_path / "plain.safetensors"
    save_file(dict(zip(names, constant(0.0).weights, strict=True)), plain)
    assert read_filter(plain).inputs == "probability"
    assert read_filter(plain, "negative_entropy").inputs == "negative_entropy"
    write_filter(tmp_path / "told.safetensors", constant(0.0))
    with pytest.raises(SettingsError, match="inputs must be one of probability"):
        read_filter(plain, "logits")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="trained on inputs=masked_probability, not probability"):
        learn2pd(tmp_path / "told.safetensors", inputs="probability")


@pytest.mark.parametrize("damage", ["missing", "cut", "other", "shape", "nan"])
def test_files_that_hold_no_filter(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "filter.safetensors"
    write_filter(path, constant(0.0))
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "other":
        save_file({"x": torch.zeros(2)}, path)
    else:
        names = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
        weights = list(constant(0.0).weights)
        weights[3] = torch.zeros(5) if damage == "shape" else torch.full((4,), torch.nan)
        save_file(dict(zip(names, weights, strict=True)), path)
    errors = {"missing": "there is no filter", "cut": "holds no filter", "other": "holds no filter"}
    errors |= {"shape": "do not fit each other", "nan": "no finite numbers"}
    with pytest.raises((CheckpointError, SettingsError), match=errors[damage]):
        learn2pd(str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"threshold": 0.0}, "between 0 and 1"),
        ({"tokens_per_step": 1, "steps": 4}, "either steps or tokens_per_step"),
        ({"filter": constant(0.0), "blocks": samplers.Fixed(6)}, "blocks of up to 4 positions, these have 6"),
        ({}, "no packaged filter for this model: give filter=PATH"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dlm.generate(MODELS["llada"], [[1]], sampler=learn2pd(**settings), max_new_tokens=6)


# The oracle. Tokens 1 to 4 are the answer; 9 is something else. Section 2.9 A of our notes.
ANSWER = [1, 2, 3, 4]


def told(*predictions: tuple[int, ...]) -> Any:
    """A model that predicts these tokens, one tuple a forward, the earlier position the surer."""
    tables = []
    for tokens in predictions:
        sure = [0.9 - 0.1 * i for i in range(len(tokens))]
        tables.append(
            [[c if t == token else (1 - c) / 9 for t in range(10)] for c, token in zip(sure, tokens, strict=True)]
        )
    return wrap(ScriptedBackbone(tables))


def test_the_oracle_commits_what_agrees() -> None:
    model = told((1, 9, 3, 9), (1, 2, 3, 9), (1, 2, 3, 4))
    answer = decode(model, oracle([[0, *ANSWER]]), 4)
    assert answer.tokens == ANSWER
    assert answer.commit_step == [0, 1, 0, 2]


@pytest.mark.parametrize("blocks", [samplers.Whole(), samplers.Fixed(2)])
def test_where_nothing_agrees_the_answer_is_written_at_the_next_forward(blocks: Any) -> None:
    answer = decode(told((1, 9, 3, 9), (1, 9, 3, 9), (1, 9, 3, 9)), oracle([[0, *ANSWER]], blocks=blocks), 4)
    assert answer.tokens == ANSWER
    assert answer.commit_step == ([0, 2, 0, 2] if isinstance(blocks, samplers.Whole) else [0, 2, 3, 5])


def test_the_walk_always_ends_with_the_answer() -> None:
    for model in MODELS.values():
        rows = [[*prompt, *([5, 6, 7] * 3)[:8]] for prompt in PROMPTS]
        sampler = oracle(rows, blocks=samplers.Fixed(4))
        answers = dlm.generate(model, PROMPTS, sampler=sampler, max_new_tokens=8, batch_size=3)
        assert all(answer.tokens == row[-8:] for answer, row in zip(answers, rows, strict=True))


def test_a_careful_oracle_waits_for_what_is_sure() -> None:
    model = told((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4))
    assert commits(model, oracle([[0, *ANSWER]], least=0.75), 4) == [{0, 1}, {2}, {3}]
    assert commits(told((1, 2, 3, 4)), oracle([[0, *ANSWER]]), 4) == [{0, 1, 2, 3}]


def test_a_row_without_an_answer_is_decoded_one_by_one() -> None:
    assert len(commits(told(*[(1, 2, 3, 4)] * 4), oracle([[5, *ANSWER], [0, *ANSWER, 7]]), 4)) == 4


def test_the_oracle_finds_its_rows_in_any_batch_and_no_rule_is_faster() -> None:
    for model in MODELS.values():
        slow = dlm.generate(model, PROMPTS, sampler=samplers.topk(blocks=samplers.Fixed(4)), max_new_tokens=8)
        rows = [a.prompt_tokens + a.tokens for a in slow]
        known = oracle(rows[::-1], blocks=samplers.Fixed(4))
        fast = dlm.generate(model, PROMPTS, sampler=known, max_new_tokens=8, batch_size=2)
        for a, b in zip(slow, fast, strict=True):
            assert b.counts.forwards <= a.counts.forwards
        assert sum(b.counts.forwards for b in fast) < sum(a.counts.forwards for a in slow)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": []}, "at least one answer"),
        ({"answers": [[1]], "least": 1.5}, r"least must be in \[0, 1\]"),
    ],
)
def test_an_oracle_that_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        oracle(**settings)


def test_the_packaged_filter_serves_the_packaged_model() -> None:
    """On held-out questions with several right answers: no mistake, and fewer forwards than a threshold of 0.9."""
    model, task = dlm.load("tiny"), dlm.tasks.get("waiting_line/insert_random")
    questions = [task.instance(i, "test") for i in range(16)]
    chats = [[{"role": "user", "content": question.prompt}] for question in questions]
    forwards = []
    for sampler in (samplers.learn2pd(), samplers.threshold(0.9)):
        answers = dlm.generate(model, chats, sampler=sampler, max_new_tokens=32, batch_size=16)
        assert all(task.score(q, a.text) == 1.0 for q, a in zip(questions, answers, strict=True))
        forwards.append(sum(a.counts.forwards for a in answers))
    assert forwards[0] < forwards[1]
