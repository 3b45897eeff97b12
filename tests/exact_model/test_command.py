"""``dlm oracle``: what it prints and writes, and what it says when a figure is wrong."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from dlm.cli import COMMANDS
from dlm.commands import oracle
from dlm.errors import SettingsError
from dlm.exact_model import cells as table
from dlm.exact_model.check import check

FEW = ["rollouts=60", "n=3"]


def test_the_table_says_what_must_come_out_and_what_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle.run(["task=[remove_random,copy]", *FEW]) == 0
    printed = capsys.readouterr().out
    assert "8/9" in printed and "exactly" in printed and "WRONG" not in printed
    assert printed.strip().splitlines()[-1].startswith("8 cells, all agree; 480 outputs decoded")


def test_json_and_files_hold_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle.run(["task=remove_random", *FEW, "json=true", f"out={tmp_path}/deep/er"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "deep/er/oracle.json").read_text()) == printed
    lines = list(csv.DictReader((tmp_path / "deep/er/oracle.csv").open()))
    assert [line["way"] for line in lines] == [record["way"] for record in printed]
    drawn = next(record for record in printed if record["way"] == "drawn, all at once")
    assert drawn["exact"] == "8/9" and drawn["rollouts"] == 60 and drawn["ok"]
    assert abs(drawn["measured"] - 8 / 9) <= drawn["tolerance"]


def test_a_wrong_figure_is_shown_and_the_exit_status_is_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = table.cells(["copy"], [3])
    monkeypatch.setattr(table, "cells", lambda *_: [replace(found[0], accuracy=Fraction(1, 2))])
    assert oracle.run(["task=copy", *FEW]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed and "1 cell, 1 WRONG" in printed


def test_forwards_are_held_too() -> None:
    [(cell, sampler)] = oracle.with_samplers(table.cells(["copy"], [3]))
    assert check(cell, sampler, 5).ok
    assert not check(replace(cell, forwards=2), sampler, 5).ok


def test_a_seed_settles_what_is_drawn_and_cells_draw_differently() -> None:
    found = [c for c in table.cells(["shuffle"], [3]) if c.accuracy == Fraction(1, 2)][:6]
    pairs = oracle.with_samplers(found)
    shares = [[check(cell, sampler, 80, seed).measured for cell, sampler in pairs] for seed in (0, 0, 1)]
    assert shares[0] == shares[1] != shares[2]
    assert len(set(shares[0])) > 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=sing"], "unknown task 'sing'; known are all or shuffle"),
        (["task=[]"], "task names none"),
        (["n=7"], "n must be 3, 4, 5 or 6"),
        (["n=[3,x]"], "n must be 3, 4, 5 or 6"),
        (["n=null"], "n must be 3, 4, 5 or 6"),
        (["n=3.0"], "n must be 3, 4, 5 or 6"),
        (["n=[[3]]"], "n must be 3, 4, 5 or 6"),
        (["task=sudoku", "n=3"], "sudoku has n=4"),
        (["rollouts=0"], "rollouts must be a whole number of at least 1"),
        (["batch_size=some"], "batch_size must be a whole number"),
        (["seed=1.5"], "seed must be a whole number"),
        (["json=2"], "json must be true or false"),
        (["sampler=topk"], "leave sampler out"),
        (["cache=dual"], "leave cache out"),
        (["sampler.temperature=1"], "leave sampler out"),
        (["rolouts=5"], "unknown setting 'rolouts'"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_decoded(overrides: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        oracle.run(overrides)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(SettingsError, match="is a file: name a folder"):
        oracle.run(["task=copy", f"out={tmp_path}/taken"])


def test_help_names_every_task_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert oracle.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(task in printed for task in table.TASKS)
    assert all(f"{key}=" in printed for key in ("task", "n", "rollouts", "seed", "batch_size", "json", "out"))
    assert oracle.run(["--cfg", "job"]) == 0
    assert "rollouts: 1000" in capsys.readouterr().out
    assert COMMANDS["oracle"][0] == oracle.__name__


def test_the_example_of_the_document_runs(capsys: pytest.CaptureFixture[str]) -> None:
    document = Path(__file__).parents[2] / "docs/oracle.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(code, "oracle.md", "exec"), {})
    assert capsys.readouterr().out.strip().endswith("] 1.0")


def test_every_cell_of_the_specification_is_in_the_table() -> None:
    found = table.cells()
    assert len({(c.group.task, c.group.n, c.group.law, c.way) for c in found}) == len(found)
    ways = {c.way for c in found if c.group.task == "shuffle" and c.group.n == 6}
    assert {"drawn, 4 steps, larger first", "best, p >= 0.5", "best, p > 0.5", "best, entropy bound 2.0"} <= ways
    assert {c.group.task for c in found} == set(table.TASKS)
