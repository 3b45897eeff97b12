"""``dlm eval -m`` and ``grid=``: many points, on one worker and on several, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlm.cli import main
from dlm.evaluation.sample import TIMES

SMALL = ["task.limit=3", "batch_size=8"]
WHOLE = ["-m", "sampler=threshold", "sampler.threshold=0.6,0.9", "task=waiting_line/copy,waiting_line/shuffle"]


def lines(out: Path) -> dict[str, list[dict]]:
    """Every answer of a folder, without what two runs may differ in, by point."""
    found: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*/*/samples*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        found.setdefault(path.parent.name, []).extend(kept)
    return {name: sorted(rows, key=lambda row: (row["instance_id"], row["seed"])) for name, rows in found.items()}


def dlm(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dlm", "eval", *arguments]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "JOBLIB_MULTIPROCESSING": "1"}


def test_a_sweep_runs_every_point_and_only_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path}"
    assert main(["eval", *WHOLE, *SMALL, out]) == 0
    assert "4 of 4 points done" in capsys.readouterr().out
    first = lines(tmp_path)
    assert [len(rows) for rows in first.values()] == [3] * 4
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/samples.jsonl")}
    assert main(["eval", *WHOLE, *SMALL, out]) == 0
    assert "All points are done" in capsys.readouterr().out
    assert main(["eval", *WHOLE[:2], "sampler.threshold=0.6,0.7", WHOLE[3], *SMALL, out]) == 0
    assert "2 of 4 points done" not in (said := capsys.readouterr().out)
    assert "4 of 4 points done" in said
    assert len(lines(tmp_path)) == 6
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps  # what was done was not touched


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["grid=parallelbench", "task=waiting_line/copy,puzzle/sudoku", "task.limit=10"]
    where = "where=blocks.length <= max_new_tokens and sampler != 'random' and max_new_tokens == 32"
    assert main(["eval", *grid, where, f"out={tmp_path / 'new'}", "--dry-run", "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    # (150 - 21) points for each of the two tasks that stand in for the grid's ten of 32 positions.
    assert (told["points"], told["answers"], told["refused"]) == (258, 2580, 0)
    assert not (tmp_path / "new").exists()


def test_points_with_settings_that_do_not_fit_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = ["-m", "sampler=threshold,topk", "sampler.threshold=0.7,0.8", *SMALL, f"out={tmp_path / 'new'}"]
    assert main(["eval", *mixed]) == 2
    error = capsys.readouterr().err
    assert "2 of 4 points are refused" in error
    assert "skip_refused=true" in error
    assert not (tmp_path / "new").exists()
    assert main(["eval", *mixed, "skip_refused=true"]) == 0
    assert len(lines(tmp_path / "new")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grid=nowhere"], "unknown grid 'nowhere'"),
        (["-m", "sampler=threshold", "workers=0"], "workers must be a whole number"),
        (["-m", "sampler=threshold", "where=blocks.length > 3"], "names 'blocks.length'"),
        (["-m", "task.limit=(1,"], "cannot read"),
        (["-m", "sampler=thresold,topk"], "2 points|1 of 2 points are refused"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(["eval", *arguments, f"out={tmp_path / 'new'}"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "new").exists()


def test_workers_that_are_killed_are_taken_up_where_they_were(tmp_path: Path) -> None:
    """Two joblib workers, the whole group killed in the middle; then the same command with Slurm's local stand-in."""
    whole = [*WHOLE, "task.limit=16", "batch_size=2", "sampler.threshold=1.01,0.6"]
    whole.remove("sampler.threshold=0.6,0.9")
    assert main(["eval", *whole, f"out={tmp_path / 'plain'}"]) == 0
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        dlm(*whole, f"out={killed}", "workers=2"), env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not any(lines(killed).values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = sum(map(len, lines(killed).values()))
    assert 0 < before < 64
    slurm = ["workers=2", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    subprocess.run(dlm(*whole, f"out={killed}", *slurm), env=ENVIRONMENT, check=True, capture_output=True, timeout=200)
    assert lines(killed) == lines(tmp_path / "plain")
    assert sum(map(len, lines(killed).values())) == 64
