"""Batches: addressed, complete rows, no held-out content, and a curriculum that joins when it says."""

import pytest
import torch

from dlm import tasks
from dlm.errors import SettingsError
from dlm.training.data import Curriculum, Mixture
from dlm.training.loader import Loader

ALL = dict.fromkeys(tasks.names(), (1.0, 0.0))


def same(a, b):
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.response, b.response) and a.families == b.families


def test_a_batch_depends_on_step_and_rank_alone(mixture):
    first = mixture.batch(5, 0.9)
    mixture.batch(1, 0.0)
    assert same(mixture.batch(5, 0.9), first)
    assert not same(mixture.batch(6, 0.9), first)
    assert not same(mixture.batch(5, 0.9, rank=1), first)


def test_rows_are_prompt_answer_and_filler(tokenizer, mixture):
    for step in range(8):
        batch = mixture.batch(step, 0.9)
        assert batch.tokens.shape == (4, 48)
        for tokens, response, answer in zip(batch.tokens, batch.response, batch.answer.int().tolist(), strict=True):
            start = int(response.int().argmax())
            assert response[start:].all()
            assert not response[:start].any()
            filled = tokens[start:].tolist()
            assert 0 not in filled[: answer - 1]
            assert set(filled[answer - 1 :]) == {tokenizer.eos_token_id}
            assert tokenizer.mask_token_id not in tokens


def test_half_of_the_rows_are_chats(tokenizer):
    data = Mixture(tokenizer, Curriculum(ALL, {64: (1.0, 0.0)}), tokens_per_batch=64 * 400, seed=0)
    chats = (data.batch(0, 0.0).tokens[:, 0] == tokenizer.convert_tokens_to_ids("<|user|>")).sum().item()
    assert 150 < chats < 250


def test_training_never_sees_held_out_questions(tokenizer):
    data = Mixture(tokenizer, Curriculum(ALL, {64: (1.0, 0.0)}), tokens_per_batch=64 * 100, seed=0)
    held_out = {tasks.get(name).instance(i, "test").prompt for name in ALL for i in range(60)}
    for step in range(6):
        batch = data.batch(step, 0.5)
        for tokens, response in zip(batch.tokens, batch.response, strict=True):
            assert tokenizer.decode(tokens[~response], skip_special_tokens=True) not in held_out


def test_the_curriculum_adds_tasks_in_time(mixture):
    early = {family for step in range(10) for family in mixture.batch(step, 0.49).families}
    late = {family for step in range(10) for family in mixture.batch(step, 0.5).families}
    assert early == {"waiting_line/copy"}
    assert late == {"waiting_line/copy", "arithmetic/addition"}


def test_weights_change_when_they_say():
    entries = {"a": (1.0, 0.0, 0.4, 0.3), "b": (2.0, 0.3), "c": (1.0, 0.0, 0.0, 0.5)}
    assert Curriculum.at(entries, 0.0) == {"a": 1.0, "c": 1.0}
    assert Curriculum.at(entries, 0.3) == {"a": 0.4, "b": 2.0, "c": 1.0}
    assert Curriculum.at(entries, 1.0) == {"a": 0.4, "b": 2.0, "c": 0.0}


def test_tasks_that_do_not_fit_the_length_are_left_out(tokenizer):
    both = {"waiting_line/copy": (1.0, 0.0), "math/word_problem": (1.0, 0.0)}
    short = Mixture(tokenizer, Curriculum(both, {36: (1.0, 0.0)}), 36 * 20, seed=0)
    assert set(short.batch(0, 0.0).families) == {"waiting_line/copy"}
    hopeless = Mixture(tokenizer, Curriculum({"math/word_problem": (1.0, 0.0)}, {16: (1.0, 0.0)}), 64, seed=0)
    with pytest.raises(SettingsError, match="use longer sequences"):
        hopeless.batch(0, 0.0)


def test_workers_make_the_same_batches(mixture):
    here, ahead = Loader(mixture, rank=0), Loader(mixture, rank=0, workers=2)
    for step in range(3, 7):
        assert same(here.batch(step, 0.0), ahead.batch(step, 0.0))


@pytest.mark.parametrize(
    ("wrong_tasks", "lengths"),
    [
        ({"waiting_line/copy": (1.0, 0.5)}, {48: (1.0, 0.0)}),
        ({"waiting_line/copy": (0.0, 0.0)}, {48: (1.0, 0.0)}),
        ({"waiting_line/copy": (1.0, 0.0), "puzzle/sudoku": (-1.0, 0.0)}, {48: (1.0, 0.0)}),
        ({"waiting_line/copy": (1.0, 0.0, 2.0)}, {48: (1.0, 0.0)}),
        ({"waiting_line/copy": (1.0,)}, {48: (1.0, 0.0)}),
        ({"waiting_line/copy": (1.0, 0.0)}, {}),
        ({"waiting_line/juggle": (1.0, 0.0)}, {48: (1.0, 0.0)}),
    ],
)
def test_impossible_curricula_are_refused(wrong_tasks, lengths):
    with pytest.raises(SettingsError):
        Curriculum(wrong_tasks, lengths)
