"""A sweep on a real Slurm: the results of a local one, whatever is cancelled or requeued on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.slurm import cluster, missing

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(missing()), reason=f"needs {', '.join(missing())} (apt-get install slurm-wlm munge)"),
    pytest.mark.timeout(600),
]
SWEEP = [
    "eval", "-m", "sampler=threshold", "sampler.threshold=0.5,0.7,0.8,0.9", "task.limit=40",
    "task=waiting_line/copy,waiting_line/shuffle,waiting_line/reverse",
]  # fmt: skip
SLURM = ["workers=2", "launcher=slurm", "launcher.partition=cpu", "launcher.timeout_min=20"]
SLURM += ["launcher.mem_gb=null", "launcher.max_num_timeout=5"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm")) as env:
        yield {**env, "OMP_NUM_THREADS": "1"}


def start(env: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "dlm", *SWEEP, *words], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


def jobs(env: dict[str, str]) -> list[str]:
    """Ids of the jobs that run."""
    told = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%i"], env=env, capture_output=True, text=True, check=True)
    return told.stdout.split()


def answers(out: Path) -> dict[tuple[str, str, int], Any]:
    """What was answered, by point, question and seed."""
    found = {}
    for path in out.rglob("samples*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            key = path.parent.name, line["instance_id"], line["seed"]
            assert key not in found
            found[key] = line["output_ids"], line["commit_step"], line["score"]
    return found


def until(there: Any, seconds: int = 120) -> Any:
    for _ in range(seconds * 5):
        if found := there():
            return found
        time.sleep(0.2)
    raise AssertionError("it never came")


@pytest.fixture(scope="module")
def local(slurm: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], Any]:
    out = tmp_path_factory.mktemp("local")
    process = start(slurm, f"out={out}")
    assert process.wait() == 0
    found = answers(out)
    assert len(found) == 12 * 40
    return found


def test_twelve_points_on_two_nodes(slurm: dict[str, str], local: Any, tmp_path: Path) -> None:
    process = start(slurm, f"out={tmp_path}", *SLURM)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "12 of 12 points done" in said
    assert answers(tmp_path) == local


def test_a_cancelled_job_leaves_its_points_to_others_or_to_the_next_run(
    slurm: dict[str, str], local: Any, tmp_path: Path
) -> None:
    process = start(slurm, f"out={tmp_path}", *SLURM)
    until(lambda: any(tmp_path.rglob("samples*.jsonl")))
    for job in jobs(slurm):  # all of them: nobody takes up what they leave
        subprocess.run(["scancel", job], env=slurm, check=True)
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "Traceback" not in said, said
    again = start(slurm, f"out={tmp_path}", *SLURM)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert answers(tmp_path) == local


def test_a_requeued_job_goes_on(slurm: dict[str, str], local: Any, tmp_path: Path) -> None:
    process = start(slurm, f"out={tmp_path}", *SLURM)
    until(lambda: any(tmp_path.rglob("samples*.jsonl")))
    subprocess.run(["scontrol", "requeue", jobs(slurm)[0]], env=slurm, check=True)
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert answers(tmp_path) == local
