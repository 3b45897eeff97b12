"""``dlm trace plot``: the maps hold what the replay does, and the files are there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import dlm
import samplers
from dlm.commands.trace import run
from dlm.trace import Trace, TraceStep
from dlm.trace.plots import commit_steps, confidences
from tests.doubles import random_llada
from tests.traces.made import by_hand, decoded, saved

NAMES = {"order", "confidence", "rows"}


def test_the_order_of_a_trace_made_by_hand() -> None:
    assert commit_steps(by_hand()).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [0, 2, 2, 0, 0, 0],
        [3, 2, 2, 0, 0, 0],
        [3, 2, 2, 4, 4, -1],
    ]
    map_ = confidences(by_hand())
    assert map_[0, :3].tolist() == [0.9, 0.3, 0.8]
    assert map_[1, 1:3].tolist() == [0.7, 0.6]
    assert np.isnan(map_[3, :3]).all()


def test_what_a_cut_takes_away_was_not_committed() -> None:
    steps = [
        TraceStep(0, (1, 5), [2, 4], [3, 3], [0.9, 0.9]),
        TraceStep(1, (1, 5), [1, 3], [3, 0], [0.9, 0.9], filled=0, cut=4),
    ]
    assert commit_steps(Trace([1, 9, 9, 9, 9], 1, 9, steps)).tolist() == [[0] * 4, [0, 1, 0, 1], [2, 1, 2, -1]]


@pytest.mark.parametrize(
    "sampler",
    [
        samplers.topk(blocks=samplers.Fixed(4)),
        samplers.wino(blocks=samplers.Fixed(4)),
        samplers.remdm(blocks=samplers.Fixed(4)),
        samplers.topk(stop_at_end="decoded", blocks=samplers.Fixed(4)),
        samplers.topk(stop_at_end=True, blocks=samplers.Fixed(4)),
    ],
)
def test_the_last_line_is_the_commit_steps_of_the_answer(sampler: dlm.Sampler) -> None:
    for answer in dlm.generate(random_llada(), [[1, 2], [3]], sampler=sampler, max_new_tokens=12, record="order"):
        assert answer.trace is not None
        last = commit_steps(answer.trace)[-1]
        assert [n - 1 if n > 0 else -1 for n in last.tolist()] == answer.commit_step


def test_pictures_and_the_figures_behind_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path / "run.jsonl")
    assert run(["plot", str(path), "index=1", f"out={tmp_path}/plots"]) == 0
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {p.name for p in files} == {f"run-1-{n}.{e}" for n in NAMES for e in ("png", "svg", "csv")}
    assert sorted(files) == sorted((tmp_path / "plots").iterdir())
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in files if p.suffix == ".png")
    assert all("<svg" in p.read_text(encoding="utf-8") for p in files if p.suffix == ".svg")
    with (tmp_path / "plots" / "run-1-order.csv").open(encoding="utf-8", newline="") as table:
        lines = list(csv.DictReader(table))
    trace = decoded()[0]
    commits = [
        (i + 1, p - trace.start, t)
        for i, s in enumerate(trace.steps)
        for p, t in zip(s.positions, s.tokens, strict=True)
    ]
    assert [(int(x["forward"]), int(x["position"]), int(x["token"])) for x in lines] == commits


def test_one_row_with_its_order_alone(tmp_path: Path) -> None:
    (answer,) = dlm.generate(random_llada(), [[1]], sampler=samplers.topk(), max_new_tokens=4, record="order")
    assert answer.trace is not None
    assert run(["plot", str(saved(tmp_path / "t.jsonl", answer.trace))]) == 0
    assert not list(tmp_path.glob("*rows*"))
    assert len(list(tmp_path.glob("t-0-*"))) == 6
