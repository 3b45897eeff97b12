"""Runs of the authors' own code on the tiny checkpoints, against ours: tokens, steps, forwards and rows fed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dlm
import samplers
from tests.models.checkpoints import SEEDS, write_checkpoint

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {name: dlm.load(write_checkpoint(name, folder / name), device="cpu", dtype="float64") for name in SEEDS}


def runs_of(method: str, several: int = 24) -> list[dict[str, Any]]:
    runs = json.loads((DATA / method / "runs.json").read_text())["runs"]
    assert len(runs) >= 24
    assert sum(run["rounds"] < run["new"] for run in runs) >= several  # several tokens a step
    return runs


def lopa_of(run: dict[str, Any], model: Any, **more: Any) -> tuple[Any, ...]:
    sampler = samplers.lopa(
        run["skip_threshold"],
        branches=run["branching_factor"],
        creation=run["selection_conf_alpha"],
        lowest=run["branch_topp"],
        blocks=samplers.Whole(),
        precision="float64",
        **more,
    )
    (answer,) = dlm.generate(model, [run["prompt_ids"]], sampler=sampler, max_new_tokens=run["new"])
    rows = answer.counts.token_forwards / (len(run["prompt_ids"]) + run["new"])
    return answer.tokens, answer.commit_step, answer.counts.forwards, rows


def test_lopa_decodes_as_its_authors_code(models: dict[str, Any]) -> None:
    ours = 0
    for run in runs_of("lopa"):
        model = models[run["checkpoint"]]
        theirs = run["gen_ids"], run["commit_step"], run["rounds"], run["rows"]
        assert lopa_of(run, model) == theirs
        ours += lopa_of(run, model, branch_score="mean") == theirs
    assert ours < 24  # the runs tell the two scores apart


def test_info_gain_decodes_as_its_authors_code(models: dict[str, Any]) -> None:
    for run in runs_of("info_gain"):
        sampler = samplers.info_gain(
            run["new"],  # every open position
            position_temperature=0.0,
            threshold=run["threshold"],
            cost=run["variant"] == "info_gain",
            blocks=samplers.Whole(),
            precision="float64",
        )
        prompt = run["prompt_ids"]
        (answer,) = dlm.generate(models[run["checkpoint"]], [prompt], sampler=sampler, max_new_tokens=run["new"])
        # Ours feeds the row itself beside its versions, and no row that is full.
        rows = answer.counts.token_forwards / (len(prompt) + run["new"]) - (run["rounds"] - 1)
        found = answer.tokens, answer.commit_step, answer.counts.forwards, rows
        assert found == (run["gen_ids"], run["commit_step"], run["rounds"], run["rows"])


def test_core_decodes_as_its_authors_code(models: dict[str, Any]) -> None:
    """A replacement takes a step of its own here, and a check no forward."""
    for run in runs_of("core"):
        sampler = samplers.core(
            tokens_per_step=run["tokens_per_step"],
            every=run["revise_every"],
            candidates=run["candidate_m"],
            number=run["remask_k"],
            blocks=samplers.Fixed(run["block_length"]),
            precision="float64",
        )
        prompt, replaced = run["prompt_ids"], run["replaced"]
        steps = {step for step, _ in replaced}
        late = {(step, place) for step, place in replaced}
        expected = [
            step + sum(other < step for other in steps) + ((step, place) in late)
            for place, step in enumerate(run["commit_step"])
        ]
        (answer,) = dlm.generate(models[run["checkpoint"]], [prompt], sampler=sampler, max_new_tokens=run["new"])
        rows = answer.counts.token_forwards / (len(prompt) + run["new"]) - len(steps)
        assert (answer.tokens, answer.commit_step) == (run["gen_ids"], expected)
        assert (answer.counts.forwards, rows) == (run["rounds"] + len(steps), run["calls"])


def test_soar_decodes_as_its_authors_code(models: dict[str, Any]) -> None:
    for run in runs_of("soar", several=18):
        sampler = samplers.soar(
            run["confidence_threshold"],
            beams=run["max_beam_size"],
            most=run["max_parallel_tokens"],
            blocks=samplers.Whole(),
            precision="float64",
        )
        prompt = run["prompt_ids"]
        (answer,) = dlm.generate(models[run["checkpoint"]], [prompt], sampler=sampler, max_new_tokens=run["new"])
        rows = answer.counts.token_forwards / (len(prompt) + run["new"])
        assert (answer.tokens, answer.counts.forwards, rows) == (run["gen_ids"], run["rounds"], run["rows"])
