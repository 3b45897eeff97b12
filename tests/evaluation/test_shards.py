"""Several processes on one point: each its share, one result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlm.errors import DlmError, SettingsError
from dlm.evaluation.session import run_point
from dlm.evaluation.shards import Group, group
from dlm.evaluation.store import Store
from tests.evaluation.forks import Fork, killed_while_writing, pair
from tests.evaluation.runs import Held, go, lines, ready, tiny

POINT = ("task=waiting_line/shuffle", "task.limit=7", "seeds=[0,1]", "sampler.temperature=1.0", "sampler.threshold=0.6")


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    one = go(tmp_path / "one", *POINT)
    go(tmp_path / "two", *POINT, "seeds=[0]", "task.limit=3")  # a part is there already, from a single process

    def act(rank: int) -> None:
        outcome = run_point(ready(tmp_path / "two", *POINT), Held(tiny()), quiet=True)
        assert (outcome.decoded, outcome.answers, outcome.failures) == (11, 14, 0)
        assert bool(outcome.figures) == (rank == 0)
        again = run_point(ready(tmp_path / "two", *POINT), Held(None), quiet=True)  # nothing is left, nothing loaded
        assert (again.decoded, again.answers) == (0, 14)

    assert [process.wait() for process in pair(act)] == [0, 0]
    folder = ready(tmp_path / "two", *POINT).folder
    assert lines(folder) == lines(one.folder)
    shares = [len((folder / name).read_text().splitlines()) for name in ("samples.jsonl", "samples-rank1.jsonl")]
    assert shares == [3 + 6, 5]
    ranks = {json.loads(line)["rank"] for line in (folder / "samples-rank1.jsonl").read_text().splitlines()}
    assert ranks == {1}
    metrics, of_one = (json.loads((f / "metrics.json").read_text()) for f in (folder, one.folder))
    assert metrics["accuracy"] == of_one["accuracy"] and metrics["n"] == 14
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["sessions"][-1]["processes"] == 2


def test_a_process_that_dies_does_not_keep_the_other_waiting(tmp_path: Path) -> None:
    tiny()

    def act(rank: int) -> None:
        if rank == 1:
            os.write = killed_while_writing(1)
        go(tmp_path / "out", *POINT)

    first, second = pair(act)
    assert second.wait() == -9
    assert first.wait() == 7  # an error of ours, and no waiting
    folder = ready(tmp_path / "out", *POINT).folder
    assert (folder / "samples.jsonl").read_text().count("\n") == 7
    outcome = go(tmp_path / "out", *POINT)  # one process takes up what two have left
    assert (outcome.decoded, outcome.answers) == (6, 14)
    assert lines(folder) == lines(go(tmp_path / "whole", *POINT).folder)


def test_what_one_process_refuses_all_refuse(tmp_path: Path) -> None:
    point = ready(tmp_path, *POINT)
    with Store(point.point, point.folder):
        assert [process.wait() for process in pair(lambda rank: go(tmp_path, *POINT))] == [7, 7]
    (point.folder / "config.json").write_text('{"model": {}}')
    assert [process.wait() for process in pair(lambda rank: go(tmp_path, *POINT))] == [7, 7]


def test_launchers_whose_variables_do_not_fit_are_refused() -> None:
    def act() -> None:
        with pytest.raises(SettingsError, match="the launcher's settings"):
            group()

    process = Fork(act, WORLD_SIZE="2", RANK="x", MASTER_ADDR="127.0.0.1", MASTER_PORT="1", LOCAL_RANK="x")
    assert process.wait() == 0
    assert group() == Group(0, 1, None)


def test_a_group_of_one_needs_no_connection() -> None:
    alone = Group()
    assert alone.gather("value") == ["value"]
    assert alone.together(lambda: 3) == 3

    def fails() -> None:
        raise DlmError("no")

    with pytest.raises(DlmError, match="no"):
        alone.together(fails)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
         "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"],
    ],
    ids=["torchrun", "accelerate"],
)  # fmt: skip
def test_the_launchers_give_two_processes(tmp_path: Path, launcher: list[str]) -> None:
    command = [sys.executable, "-m", *launcher, "-m", "dlm", "eval", "task.limit=6", f"out={tmp_path}", "json=true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    assert figures["n"] == 6
    manifest = json.loads((Path(figures["folder"]) / "manifest.json").read_text())
    assert manifest["sessions"][0]["processes"] == 2
    assert len((Path(figures["folder"]) / "samples-rank1.jsonl").read_text().splitlines()) == 3
