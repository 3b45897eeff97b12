"""Figures of a model in memory: the runner's, without its folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import samplers
from dlm import tasks
from dlm.errors import NumericsError, PromptError
from dlm.evaluation.scoring import score
from tests.evaluation.runs import Faulty, go, tiny


def test_a_score_is_what_a_run_keeps(tmp_path: Path) -> None:
    kept = go(tmp_path, "sampler=topk", "sampler.tokens_per_step=4", "blocks.length=8").figures
    sampler = samplers.topk(tokens_per_step=4, blocks=samplers.Fixed(8))
    found = score(tiny(), tasks.get("waiting_line/copy"), sampler, n=6, batch_size=4)
    timed = {"seconds", "seconds_model", "tokens_per_second"}
    assert {k: v for k, v in found.items() if k not in timed} == {k: kept[k] for k in found if k not in timed}
    assert found["forwards"] == 8


def test_what_cannot_be_answered_is_raised() -> None:
    task = tasks.get("waiting_line/copy")
    mark = tiny().encode_chat(task.instance(2).messages)[-6]
    with pytest.raises(NumericsError):
        score(Faulty(mark, "nan"), task, samplers.topk(), n=4)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="context"):
        score(tiny(), task, samplers.topk(), n=1, max_new_tokens=4096)


def test_the_public_names_load_neither_hydra_nor_datasets() -> None:
    code = (
        "import sys; from dlm.evaluation import score, sweep;"
        "print([m for m in ('hydra', 'omegaconf', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
