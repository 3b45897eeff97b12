"""The drafter's training: what is masked in both stages, what it weighs, and a run from verifier to draft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from dlm.cli import main
from dlm.errors import SettingsError
from dlm.training.answers import Answers
from dlm.training.drafter import Drafter, DrafterTraining, masks_of
from dlm.training.trainee import Trainee
from tests.doubles import random_llada


def test_the_nearest_token_weighs_most() -> None:
    """Three tokens at full level: 1.0201, 1.01 and 1, shared among three."""
    how = DrafterTraining(steps=1, alpha=1.01)
    start, end = torch.tensor([2]), torch.tensor([30])
    for seed in range(200):
        _, weight, stop = masks_of(start, end, how, True, torch.Generator().manual_seed(seed))
        kept = weight[0][weight[0] > 0]
        assert stop[0] - len(kept) == int(weight[0].gt(0).long().argmax())  # up to the end
        if len(kept) == 3:
            assert (kept / kept[-1]).tolist() == pytest.approx([1.0201, 1.01, 1.0])
            return
    raise AssertionError("three tokens were never masked")


@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), min_size=1, max_size=4),
    refine=st.booleans(),
)
def test_masks_lie_in_the_answer(seed: int, sizes: list[tuple[int, int]], refine: bool) -> None:
    start = torch.tensor([first for first, _ in sizes])
    end = start + torch.tensor([length for _, length in sizes])
    how = DrafterTraining(steps=1, nearest=3)
    masked, weight, stop = masks_of(start, end, how, refine, torch.Generator().manual_seed(seed))
    columns = torch.arange(masked.shape[1])
    inside = (columns >= start[:, None]) & (columns < stop[:, None])
    assert not (masked & ~inside).any() and not ((weight > 0) & ~inside).any() and (weight[masked] > 0).all()
    assert ((stop > start) & (stop <= end)).all() and (refine or torch.equal(stop, end))
    assert not refine or ((weight > 0).sum(dim=1) <= 3).all()


def test_the_loss_of_a_masked_token_is_unbiased() -> None:
    """1 / t over what is masked with probability t: the mean is that of all tokens behind the cut."""
    how, rows = DrafterTraining(steps=1), 40000
    start, end = torch.zeros(rows, dtype=torch.long), torch.full((rows,), 4)
    masked, weight, _ = masks_of(start, end, how, False, torch.Generator().manual_seed(1))
    # Token 3 is behind every cut: 1 of 1, 2, 3 or 4 tokens alike.
    found = (weight * masked)[:, 3].double()
    off = float(found.std()) / rows**0.5
    assert float(found.mean()) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, abs=5 * off)


def test_training_begins_only_with_something_to_learn() -> None:
    how = DrafterTraining(steps=1)
    nothing = torch.zeros(0, dtype=torch.long)
    model: Any = random_llada()
    for weight in model.backbone.parameters():
        weight.requires_grad_(True)
    with pytest.raises(SettingsError, match="nothing to learn from"):
        Drafter(Trainee(model, {}), Answers(nothing.view(0, 0), nothing, nothing, 0), how, None)
    for wrong in ({"alpha": 0.0}, {"nearest": 0}, {"refine_from": 1.5}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            DrafterTraining(steps=1, **wrong)


def test_a_drafter_is_trained_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["model.hidden_size=16", "model.num_hidden_layers=1", "model.num_attention_heads=2", "pictures=false"]
    few += ["training.minutes=null", "training.steps=2", "tokens_per_batch=96", "held_out=0"]
    assert main(["train", "ar", f"out={tmp_path / 'ar'}", *few]) == 0
    words = [f"verifier={tmp_path / 'ar' / 'model'}", "task=waiting_line/copy", "pictures=false", "n=4", "portion=2"]
    words += ["training.batch=4", "training.rate=0.001", "training.refine_from=0"]
    for name, steps in (("short", 2), ("short", 4), ("long", 4)):
        run = [f"out={tmp_path / name}", f"training.steps={steps}", "training.checkpoint_minutes=0"]
        assert main(["train", "drafter", *words, *run]) == 0
    assert [line["step"] for line in map(json.loads, (tmp_path / "long" / "log.jsonl").read_text().splitlines())] == [4]
    # What was cut short and went on has the weights of what was not.
    gone_on, whole = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("short", "long"))
    assert all(torch.equal(gone_on[name], weight) for name, weight in whole.items())
    capsys.readouterr()
    assert main(["deer", words[0], f"drafter={tmp_path / 'long' / 'model'}", "prompt=Hi", "max_new_tokens=4"]) == 0
    assert main(["train", "drafter", f"out={tmp_path / 'no'}", "task=waiting_line/copy"]) == 2
    assert "add verifier=DIR" in capsys.readouterr().err
