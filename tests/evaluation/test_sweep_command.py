"""``dlm eval -m`` and ``grid=``: many points, on one worker and on several, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dlm.evaluation
from dlm.cli import main
from dlm.errors import SettingsError
from dlm.evaluation.sample import TIMES
from dlm.evaluation.sweep_plan import State
from tests.evaluation.forks import Fork

SMALL = ["task.limit=3", "batch_size=8"]
WHOLE = ["-m", "sampler=threshold", "sampler.threshold=0.6,0.9", "task=waiting_line/copy,waiting_line/shuffle"]


def lines(out: Path) -> dict[str, list[dict]]:
    """Every answer of a folder, without what two runs may differ in, by point."""
    found: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*/*/samples*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]  # without one that is being written
        kept = [{k: v for k, v in row.items() if k not in TIMES} for row in rows]
        found.setdefault(path.parent.name, []).extend(kept)
    return {name: sorted(rows, key=lambda row: (row["instance_id"], row["seed"])) for name, rows in found.items()}


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


def test_samplers_with_a_threshold_are_swept_together(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    swept = ["-m", "sampler=threshold,credit,localleap", "sampler.threshold=0.6,0.7,0.8,0.9", "task=waiting_line/copy"]
    assert main(["eval", *swept, f"out={tmp_path}", "--dry-run", "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["points"], told["refused"], told["answers"]) == (12, 0, 1200)


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


KILLED = [*WHOLE[:2], "sampler.threshold=1.01,0.6", WHOLE[3], "task.limit=8", "batch_size=2"]


def begun(act: Callable[[], Any], out: Path) -> Fork:
    """A process that does ``act``, and has answered something."""
    process, deadline = Fork(act), time.monotonic() + 120
    while not any(lines(out).values()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_what_a_killed_worker_leaves_another_takes_up(tmp_path: Path) -> None:
    """The other has found the point held, and waits for it, when its holder is killed."""
    from dlm.commands.sweep import _order
    from dlm.evaluation.sweep_plan import save_plan
    from dlm.evaluation.sweeps import Sweep, go_through

    assert main(["eval", *KILLED, f"out={tmp_path / 'plain'}"]) == 0
    out, plan = tmp_path / "killed", tmp_path / "sweep" / "plan.json"
    plan.parent.mkdir()
    save_plan(plan, Sweep.of(_order([*KILLED, f"out={out}"]).choices).entries, {})
    first = begun(lambda: go_through(plan, 0), out)
    os.kill(first.pid, signal.SIGSTOP)  # it holds its point and gets no further
    second = Fork(lambda: go_through(plan, 1))
    time.sleep(0.5)
    first.kill()
    assert first.wait() == -9
    assert 0 < sum(map(len, lines(out).values())) < 32
    assert second.wait() == 0
    assert lines(out) == lines(tmp_path / "plain")
    assert sum(map(len, lines(out).values())) == 32


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["launcher=local", "launcher.timeout_min=5"]])
def test_launchers_whose_group_is_killed_begin_again_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: list[str]
) -> None:
    """Two workers of joblib, killed with their master; then the same command, or one with Slurm's local stand-in."""
    from joblib.externals.loky import get_reusable_executor

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "1")
    assert main(["eval", *KILLED, f"out={tmp_path / 'plain'}"]) == 0
    out = tmp_path / "killed"

    def act() -> None:
        os.setsid()  # a group of its own, workers included
        main(["eval", *KILLED, f"out={out}", "workers=2"])

    master = begun(act, out)
    os.killpg(master.pid, signal.SIGKILL)
    assert master.wait() == -9
    assert 0 < sum(map(len, lines(out).values())) < 32
    assert main(["eval", *KILLED, f"out={out}", "workers=2", *launcher]) == 0
    get_reusable_executor().shutdown()  # a fork of this process would wait for workers that it does not have
    assert lines(out) == lines(tmp_path / "plain")


def test_seeds_side_by_side_are_all_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They share a folder: the configuration is one."""
    assert main(["eval", "-m", "seed=0,1", "task.limit=1,2", *SMALL[1:], f"out={tmp_path}"]) == 0
    assert "4 of 4 points done" in capsys.readouterr().out
    ((_, found),) = lines(tmp_path).items()
    assert [sum(row["seed"] == seed for row in found) for seed in (0, 1)] == [2, 2]


def test_a_sweep_is_not_for_the_launchers_of_several_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["eval", *WHOLE, f"out={tmp_path / 'new'}"]) == 2
    assert "a sweep shares its points by workers=N" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_two_sweeps_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlm.evaluation.grid import combined
    from dlm.evaluation.sweeps import Sweep

    monkeypatch.setattr("dlm.evaluation.sweeps.time.strftime", lambda form: "now")
    found = Sweep.of(combined([f"out={tmp_path}"]))
    assert [found.begin(1, []).name for _ in range(3)] == ["now", "now-2", "now-3"]


def test_a_sweep_from_python(tmp_path: Path) -> None:
    swept = [*WHOLE[1:3], *SMALL]
    found = dlm.evaluation.sweep(swept, grid={"set": {"task": "waiting_line/copy"}}, out=tmp_path)
    assert [(one.entry.task, one.state, one.figures["n"]) for one in found] == [
        ("waiting_line/copy", State.DONE, 3)
    ] * 2
    assert len(lines(tmp_path)) == 2
    again = dlm.evaluation.sweep(swept, where=["sampler.threshold < 0.7"], out=tmp_path)
    assert [(one.state, one.figures) for one in again] == [(State.DONE, found[0].figures)]
    mixed = ["sampler=threshold,topk", "sampler.threshold=0.6", *SMALL]
    with pytest.raises(SettingsError, match=r"1 of 2 points are refused.* the first is sampler=topk"):
        dlm.evaluation.sweep(mixed, out=tmp_path)
    assert len(dlm.evaluation.sweep(mixed, out=tmp_path, skip_refused=True)) == 1
