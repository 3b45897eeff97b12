"""How long forwards take: the curve, its measurement on a model that takes known time, and its file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch

import dlm
from dlm.errors import SettingsError
from dlm.speculation import cost_model
from dlm.speculation.cost_model import CostModel, TimingCurve, measured
from tests.doubles import TableBackbone

CPU = torch.device("cpu")


class Timed(TableBackbone):
    """A model on a clock of its own: a forward takes 10 ms and 0.1 ms for each position beyond 64, the head 1 ms."""

    def __init__(self) -> None:
        super().__init__([[0.5, 0.5]] * 8)
        self.now = 0.0
        self.fed: list[int] = []
        self.room = 10**6

    def hidden(self, tokens, positions=None, valid=None):
        if tokens.numel() > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        assert tokens.max() < self.description.valid_vocab
        self.fed.append(tokens.numel())
        self.now += 0.01 + 1e-4 * max(0, tokens.numel() - 64)
        return torch.zeros(*tokens.shape, 1, dtype=torch.float64)

    def head(self, rows):
        self.now += 0.001
        return super().head(rows)


@pytest.fixture
def model(monkeypatch, tmp_path) -> Timed:
    timed = Timed()
    monkeypatch.setattr(cost_model.time, "perf_counter", lambda: timed.now)
    monkeypatch.setattr(cost_model, "_known", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return timed


def ask(model: Timed) -> CostModel:
    return measured(model, model.description, CPU)


def forget(monkeypatch) -> None:
    monkeypatch.setattr(cost_model, "_known", {})


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_seconds_lie_on_the_line_between_points_and_grow_in_proportion_beyond() -> None:
    curve = TimingCurve((8, 16, 32), (1.0, 2.0, 3.0))
    assert [curve.seconds_of(n) for n in (0, 1, 8, 12, 16, 20, 32, 64)] == [0, 1, 1, 1.5, 2, 2.25, 3, 6]
    both = CostModel(curve, TimingCurve((8,), (0.5,)))
    assert both.seconds_of(12, 0) == 1.5
    assert both.seconds_of(12, 16) == 2.5


@pytest.mark.parametrize(
    ("seconds", "saturation_point"),
    [((1.0, 1.0, 2.0), 17), ((1.0, 1.2, 2.0), 12), ((1.0, 1.1, 1.1), 32), ((1.0, 1.0, 1.0), 35), ((1.0, 2.0, 3.0), 8)],
)
def test_the_knee_is_where_a_forward_takes_10_percent_longer(seconds, saturation_point) -> None:
    curve = TimingCurve((8, 16, 32), seconds)
    assert curve.saturation_point() == saturation_point
    assert curve.seconds_of(saturation_point) <= 1.1 * seconds[0] * (1 + 1e-12) < curve.seconds_of(saturation_point + 1)


def test_measurements_that_fall_are_pooled() -> None:
    sizes = (8, 16, 32, 64)
    assert TimingCurve.fitted(sizes, [1.0, 3.0, 2.0, 4.0]).seconds == (1.0, 2.5, 2.5, 4.0)
    assert TimingCurve.fitted(sizes, [4.0, 3.0, 2.0, 1.0]).seconds == (2.5, 2.5, 2.5, 2.5)
    assert TimingCurve.fitted(sizes, [1.0, 2.0, 3.0, 4.0]).seconds == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("positions", "seconds"),
    [
        ((), ()),
        ((8,), (1.0, 2.0)),
        ((8, 8), (1.0, 1.0)),
        ((8, 16), (2.0, 1.0)),
        ((8,), (0.0,)),
        ((8,), (math.nan,)),
    ],
)
def test_points_that_are_no_curve_are_refused(positions, seconds) -> None:
    with pytest.raises(SettingsError, match="rising"):
        TimingCurve(positions, seconds)


def test_a_measurement_finds_what_a_forward_takes(model) -> None:
    found = ask(model)
    assert found.body.positions[:4] == (8, 16, 32, 64)
    expected = [0.01 + 1e-4 * max(0, n - 64) for n in found.body.positions]
    assert found.body.seconds == pytest.approx(expected)
    assert found.saturation_point() == 74
    assert found.head.seconds == pytest.approx([0.001] * len(found.head.seconds))


def test_a_measurement_stops_when_a_point_is_slow(model, monkeypatch) -> None:
    monkeypatch.setattr(cost_model, "_SLOW", 0.012)
    assert ask(model).body.positions == (8, 16, 32, 64, 128)
    forget(monkeypatch)
    monkeypatch.setattr(cost_model, "_SLOW", 0.001)
    monkeypatch.setattr(cost_model, "_read", lambda path, about: None)
    assert ask(model).body.positions == (8, 16)


def test_a_measurement_stops_when_memory_is_short(model) -> None:
    model.room = 100
    assert ask(model).body.positions == (8, 16, 32, 64)


def test_a_forward_that_fails_for_another_reason_is_not_hidden(model) -> None:
    model.room = 4
    with pytest.raises(RuntimeError, match="allocate"):
        ask(model)


def test_a_model_is_measured_once(model, monkeypatch, tmp_path) -> None:
    first = ask(model)
    calls = len(model.fed)
    assert ask(model) is first
    forget(monkeypatch)
    assert ask(model) == first
    assert len(model.fed) == calls
    assert len(files(tmp_path)) == 1


def test_other_threads_and_other_shapes_are_other_machines(model, monkeypatch, tmp_path) -> None:
    ask(model)
    monkeypatch.setattr(cost_model.torch, "get_num_threads", lambda: 99)
    ask(model)
    model.arch = "another"
    ask(model)
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "\0", '{"about": 1}', "[" * 100000])
def test_a_damaged_file_is_measured_again(model, monkeypatch, tmp_path, text) -> None:
    first = ask(model)
    (file,) = files(tmp_path)
    good = file.read_text()
    file.write_text(text)
    forget(monkeypatch)
    assert ask(model).body.seconds == pytest.approx(first.body.seconds)
    assert json.loads(file.read_text()).keys() == json.loads(good).keys()


@pytest.mark.parametrize("seconds", [[], [3, 2, 1], ["a"], [1, None], 7, {"a": 1}])
def test_a_file_whose_curve_is_none_is_measured_again(model, monkeypatch, tmp_path, seconds) -> None:
    first = ask(model)
    (file,) = files(tmp_path)
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "body": {"positions": [8, 16, 32], "seconds": seconds}})
    )
    forget(monkeypatch)
    assert ask(model).body.positions == first.body.positions


def test_a_disturbed_measurement_is_not_written_down(model, monkeypatch, tmp_path) -> None:
    own = model.hidden

    def disturbed(*args):
        model.now += 0.05 * (len(model.fed) % 2 == 0)
        return own(*args)

    monkeypatch.setattr(model, "hidden", disturbed)
    monkeypatch.setattr(cost_model, "_BUDGET", 60.0)
    first = ask(model)
    assert ask(model) is first
    assert files(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_no_error(model, monkeypatch, tmp_path) -> None:
    (tmp_path / "dlm").write_text("a file where the folder should be")
    assert ask(model).saturation_point() == 74
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    forget(monkeypatch)
    assert ask(model).saturation_point() == 74


def test_a_file_that_cannot_be_finished_leaves_nothing(model, monkeypatch, tmp_path) -> None:
    def fail(source: str, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    assert ask(model).saturation_point() == 74
    assert files(tmp_path) == []


def test_a_relative_folder_counts_as_none(model, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    ask(model)
    assert files(tmp_path)[0].parent == tmp_path / ".cache" / "dlm"


def test_the_packaged_model_is_measured(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cost_model, "_known", {})
    monkeypatch.setattr(cost_model, "_LADDER", (8, 16, 512))
    monkeypatch.setattr(cost_model, "_BUDGET", 0.1)
    tiny = dlm.load("tiny", device="cpu")
    state = torch.random.get_rng_state()
    found = measured(tiny.backbone, tiny.description, CPU)
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.body.positions[:2] == (8, 16)
    assert found.body.seconds[-1] > found.body.seconds[0] > found.head.seconds[0]
