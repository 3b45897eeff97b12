"""Certainty-forcing distillation: the worked numbers, the masks, answers that are kept, and a run as a whole."""

import json
import math

import pytest
import torch

import dlm
import samplers
from dlm.commands.train_distill import run as train_distill
from dlm.errors import CheckpointError, SettingsError
from dlm.tasks.registry import open_task
from dlm.training.answers import Answers, collect
from dlm.training.distillation import Distillation, DistillationTraining, active_blocks, two_terms
from dlm.training.trainee import Trainee

SURE = [[math.log(3.0), 0.0]]  # probabilities 3/4 and 1/4; at half the temperature 9/10 and 1/10


def test_both_terms_by_hand():
    """One position right, one wrong: cross-entropies 0.2877 and 1.3863, entropy 0.3251 of the right one."""
    logits = torch.tensor(SURE * 2)
    ce, certainty, right = two_terms(logits, torch.tensor([0, 1]), torch.tensor([0, 0]), 2, 0.5)
    assert ce.tolist() == pytest.approx([0.8370, 0.0], abs=1e-4)
    assert certainty.tolist() == pytest.approx([0.3251, 0.0], abs=1e-4)
    assert float(ce[0] + 2 * certainty[0]) == pytest.approx(1.4872, abs=1e-4)
    assert right == 0.5
    none, zero, _ = two_terms(logits[:1], torch.tensor([1]), torch.tensor([0]), 1, 0.5)
    assert none.isfinite().all()
    assert zero.tolist() == [0.0]


def test_certainty_raises_the_likeliest_token_where_it_is_right_alone():
    logits = torch.tensor(SURE * 2, requires_grad=True)
    two_terms(logits, torch.tensor([0, 1]), torch.tensor([0, 1]), 2, 0.5)[1].sum().backward()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]
    assert logits.grad[1].tolist() == [0.0, 0.0]


def test_blocks_lie_in_the_answer_and_the_last_one_goes_on_to_its_end():
    start, end = torch.full((200,), 3), torch.full((200,), 25)  # 22 positions: blocks of 8, and 14
    how = DistillationTraining(steps=1, block_length=8)
    active = active_blocks(start, end, 30, how, torch.Generator().manual_seed(0))
    found = {tuple(row.nonzero().flatten().tolist()) for row in active}
    assert found == {tuple(range(3, 11)), tuple(range(11, 25))}
    whole = active_blocks(start, end, 30, DistillationTraining(steps=1, whole_answer=True), torch.Generator())
    assert (whole.sum(dim=1) == 22).all()


def answers(rows=4):
    model = dlm.load("tiny", device="cpu", trainable=True)
    tokens = torch.randint(5, 60, (rows, 20), generator=torch.Generator().manual_seed(1))
    return model, Answers(tokens, torch.full((rows,), 6), torch.full((rows,), 20), rows)


def test_the_two_forwards_mask_complements_and_what_lies_behind(monkeypatch):
    model, made = answers()
    how = DistillationTraining(steps=1, block_length=4, batch=8)
    seen = []
    hidden = model.backbone.hidden
    monkeypatch.setattr(model.backbone, "hidden", lambda *a: (seen.append(a), hidden(*a))[1])
    job = Distillation(Trainee.of(model), made, how, None)
    assert torch.isfinite(job.loss(0.0))
    masked = seen[0][0] == model.description.mask_id
    one, other = masked[:8], masked[8:]
    assert not masked[:, :6].any()  # the prompt stays
    both, either = one & other, one | other
    for row in range(8):
        open_, behind = (either ^ both)[row].nonzero().flatten(), both[row].nonzero().flatten()
        assert len(open_) in (4, 6)  # 14 positions are blocks of 4, 4 and 6
        assert behind.tolist() == list(range(int(open_.max()) + 1, 20))


def test_a_killed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    given = {"steps": 4, "block_length": 8, "batch": 4, "rate": 1e-3, "warmup_steps": 1, "checkpoint_minutes": 0.0}
    how = DistillationTraining(**given)

    def job(folder):
        model, made = answers()
        return Distillation(Trainee.of(model), made, how, folder)

    whole, lines = job(tmp_path / "whole"), []
    whole.run(lines.append)
    broken = job(tmp_path / "broken")
    broken.train_step(0.0)
    broken.save()
    resumed = job(tmp_path / "broken")
    assert resumed.progress.step == 1
    resumed.run()
    assert all(torch.equal(w, resumed.weights[name]) for name, w in whole.weights.items())
    assert lines[-1]["consistency"] > 0


def test_answers_are_right_and_made_once(tmp_path):
    model, task = dlm.load("tiny", device="cpu", trainable=True), open_task("math/word_problem")
    sampler = samplers.topk(tokens_per_step=8)

    def made(seed=0):
        return Answers.cat(list(collect(model, [task], sampler, 12, tmp_path, portion=8, seed=seed)))

    first = made()
    assert first.asked == 12
    assert 0 < len(first) < 12  # the model is right about a third of these
    rows = zip(first.tokens, first.start, first.end, strict=True)
    texts = {model.decode(row[start:end].tolist()) for row, start, end in rows}
    right = [task.instance(i, "train") for i in range(12)]
    assert all(any(task.judge(one, text).score == 1 for one in right) for text in texts)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert torch.equal(made().tokens, first.tokens)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match="another model, sampler or seed"):
        made(seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"beta": -1.0}, "beta"), ({"mask_share": 1.0}, "mask_share"), ({"batch": 0}, "batch"), ({"rate": 0.0}, "rate")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        DistillationTraining(**{"steps": 1, **settings})


def test_nothing_to_learn_from_and_models_of_blocks_are_refused():
    model, _ = answers()
    none = Answers(torch.zeros(0, 0, dtype=torch.long), torch.zeros(0), torch.zeros(0), 5)
    with pytest.raises(SettingsError, match="none of 5 answers"):
        Distillation(Trainee.of(model), none, DistillationTraining(steps=1), None)
    block = dlm.load("tiny-block", device="cpu", trainable=True)
    with pytest.raises(SettingsError, match="block-diffusion"):
        Distillation(Trainee.of(block), answers()[1], DistillationTraining(steps=1), None)


def test_the_command(tmp_path, capsys):
    words = ["task=waiting_line/copy", "n=3", "training.steps=2", "training.batch=2", "answers.tokens_per_step=8"]
    assert train_distill([f"out={tmp_path}", "pictures=false", "training.lora=2", *words]) == 0
    assert "right answers of 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "training.json").read_text())["tasks"] == ["waiting_line/copy"]
    assert dlm.load("tiny", device="cpu", adapter=tmp_path / "adapter").name
    (tmp_path / "log.jsonl").write_text("")  # the run is done, its log is gone: nothing is left to do or to tell
    assert train_distill([f"out={tmp_path}", "pictures=false", "training.lora=2", *words]) == 0
