"""The workers of a sweep: what starts them, what is said when they die, and that they do not outlive the sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dlm.cli import main
from dlm.configuration import compose_config
from dlm.errors import SettingsError, StorageError
from dlm.evaluation.sweep_plan import Event, Log, State
from dlm.evaluation.workers import as_hydra, check_launcher, for_hydra
from dlm.overrides import quoted

SWEEP = ["eval", "-m", "sampler=threshold,topk", "task.limit=2", "max_new_tokens=8"]


@pytest.mark.parametrize("name", ["a b", "it's", 'say "so"', "[x], {y}=é", "back\\slash", "end\\", "\\'", "a,b", ""])
def test_any_text_is_the_value_of_an_override(name: str) -> None:
    assert compose_config("eval", [f"out={quoted(name)}"]).out == name


def test_a_sweep_takes_a_folder_of_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "it's [mine], é=1"
    assert main([*SWEEP, f"out={out}"]) == 0
    assert len(list(out.glob("*/*/samples.jsonl"))) == 2
    assert "2 of 2 points done" in capsys.readouterr().out


def test_mappings_of_a_launcher_take_any_key() -> None:
    words = ["launcher=slurm", "launcher.additional_parameters={nice: 1}", "launcher.additional_parameters.exclusive=x"]
    check_launcher([as_hydra(word) for word in words])
    assert for_hydra(as_hydra("launcher.ray.remote.num_gpus=1"))
    with pytest.raises(SettingsError, match="'nice' not in"):
        check_launcher([as_hydra(word) for word in (words[0], "launcher.nice=1")])


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (["hydra/launcher=nope"], "there is no launcher 'nope' here: joblib"),
        (["launcher=nope"], "launcher must be one of joblib, local, slurm, ray"),
        (["hydra/launcher=joblib", "hydra.launcher.njobs=2"], "'njobs' not in 'JobLibLauncherConf'; it knows backend,"),
        (["launcher=local", "launcher.timeout_min=x"], "launcher.timeout_min: Value 'x' of type 'str' could not be"),
    ],
)
def test_a_launcher_that_is_not_there_is_refused_first(
    launcher: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SWEEP, *launcher, f"out={tmp_path / 'new'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_workers_that_die_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hydra

    from dlm.evaluation.sweeps import run_worker
    from dlm.evaluation.workers import launch

    def died() -> None:
        raise RuntimeError("a worker was killed\nand a page of details")

    def application(**settings: Any) -> Any:
        return lambda run: died

    monkeypatch.setattr(hydra, "main", application)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    arguments = list(sys.argv)
    with pytest.raises(
        StorageError, match=r"ended early \(RuntimeError: a worker was killed\): what was answered is kept"
    ):
        launch(tmp_path / "plan.json", 2, ["hydra/launcher=joblib"], run_worker)
    assert sys.argv == arguments
    assert "HYDRA_FULL_ERROR" not in os.environ


ORPHAN = """
import os, subprocess, sys
child = "import os; from dlm.evaluation import workers; print(os.getpid(), flush=True); workers.LOOK = 0.05; " \\
    "workers._end_with(os.getppid())"
subprocess.Popen([sys.executable, "-c", child]).wait()
"""


def test_a_worker_ends_with_the_process_that_started_it() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.2)
    assert Path(f"/proc/{worker}").exists()
    parent.kill()
    # Its end closes the pipe that both write to.
    assert parent.stdout.read() == ""
    parent.wait()


def test_a_sweep_that_cannot_write_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweeps").write_text("in the way")
    assert main([*SWEEP, f"out={tmp_path}"]) == 2
    assert "sweeps cannot be written (Not a directory): make room, or give another out=" in capsys.readouterr().err
    log = Log(tmp_path / "sweeps" / "worker-0.jsonl")
    with pytest.raises(StorageError, match=r"the answers do not fit; .* cannot be written"):
        log.write(Event("key", State.FAILED, "the answers do not fit"))
