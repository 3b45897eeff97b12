"""What a step asks of a GPU: budgets, steps of fixed shape without a wait, and the pretended device itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUDGETS = Path(__file__).parents[1] / "data" / "launches.json"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return told("12")


def told(*share: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.counted", *share]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_no_step_asks_for_more_than_its_budget(found: dict[str, Any]) -> None:
    """Launches outside the model, waits and copies; PYTHONPATH=. python -m tests.bench.counted prints today's."""
    budgets, counts = json.loads(BUDGETS.read_text()), found["counts"]
    assert len(counts) > len(budgets) / 12
    assert not over(counts, budgets)


def over(counts: dict[str, list[int]], budgets: dict[str, list[int]]) -> dict[str, Any]:
    """What asks for more than it may."""
    pairs = {name: (found, budgets[name]) for name, found in counts.items()}
    return {name: pair for name, pair in pairs.items() if any(n > m for n, m in zip(*pair, strict=True))}


@pytest.mark.slow
def test_no_step_of_any_part_asks_for_more() -> None:
    budgets, everything = json.loads(BUDGETS.read_text()), told()
    assert everything["counts"].keys() == budgets.keys()
    assert not over(everything["counts"], budgets)
    assert everything["wrong"] == []


def test_a_layer_launches_few_kernels(found: dict[str, Any]) -> None:
    assert found["layers"] == {"none": 11, "dual": 13, "accepted": 0}
    outside, waits, copies = found["counts"]["threshold dual"]
    assert (outside <= 40, waits, copies) == (True, 1, 0)


def test_static_steps_wait_for_nothing_and_have_few_shapes(found: dict[str, Any]) -> None:
    for figures in found["static"].values():
        assert figures["same"]
        assert figures["steps"] >= 3
        assert figures["shapes"] <= 4


def test_every_part_gives_the_answers_of_the_cpu_there(found: dict[str, Any]) -> None:
    assert found["wrong"] == []


def test_the_device_raises_where_a_gpu_would(found: dict[str, Any]) -> None:
    wanted = [
        "tensors of counting:0 and of the CPU",
        "float32 and float64",
        "can't convert",
        "a wait",
        "a copy",
        "a wait",
    ]
    assert [part in said for part, said in zip(wanted, found["guard"], strict=True)] == [True] * len(wanted)
