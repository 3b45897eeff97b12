"""Sweeps: how workers share points, what a plan costs, and the command as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlm.evaluation.sweep_plan import (
    Entry,
    Event,
    Log,
    State,
    cost_of,
    load_plan,
    most_forwards,
    ordered,
    save_plan,
    work,
)


def entry(name: str, **others: Any) -> Entry:
    values = {"overrides": (f"task={name}",), "hash": name, "task": name, "method": "m", "folder": "f", "model": "a"}
    return Entry(**{**values, "asked": 10, "done": 0, "most": 4, **others})


def test_points_of_one_model_are_neighbours_and_each_stands_once() -> None:
    entries = [entry("1", model="b"), entry("2", model="a"), entry("3", model="b"), entry("1", model="b")]
    assert [e.hash for e in ordered(entries)] == ["1", "3", "2"]
    again = [entry("1", wanted="[3,[0]]"), entry("1", wanted="[3,[1]]"), entry("1", wanted="[3,[0]]", done=2)]
    assert [e.wanted for e in ordered(again)] == ["[3,[0]]", "[3,[1]]"]  # one point with other seeds is another entry


def test_cost_counts_what_is_left_and_fills_in_the_unknown_with_the_mean() -> None:
    entries = [entry("1", done=10), entry("2"), entry("3", done=4)]
    cost = cost_of(entries, lambda e: {"2": 0.5}.get(e.hash))
    assert (cost.points, cost.done, cost.answers, cost.forwards) == (3, 1, 16, 64)
    assert cost.seconds == pytest.approx(16 * 0.5)
    assert cost_of(entries).seconds is None
    assert cost_of(entries[:1]).seconds == 0.0


@pytest.mark.parametrize(
    ("sampler", "most"),
    [({}, 32), ({"tokens_per_step": 3}, 11), ({"steps": 7, "tokens_per_step": None}, 7), ({"guidance": 1.5}, 64)],
)
def test_most_forwards(sampler: dict, most: int) -> None:
    assert most_forwards(sampler, 32) == most


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_a_worker_waits_for_points_that_others_hold_until_they_are_done(busy: list[int]) -> None:
    """Each point is held for some rounds; then it is this worker's."""
    left, taken = {str(i): n for i, n in enumerate(busy)}, []

    def evaluate(point: Entry) -> Event:
        left[point.hash] -= 1
        return Event(point.key, State.BUSY if left[point.hash] >= 0 else State.DONE)

    settled = work([entry(name) for name in left], evaluate, taken.append, wait=0)
    assert sorted(e.key for e in taken) == sorted(settled) == sorted(entry(name).key for name in left)
    assert {e.state for e in settled.values()} == {State.DONE}


def test_a_plan_and_a_log_come_back(tmp_path: Path) -> None:
    entries = [entry("1"), entry("2", done=3)]
    save_plan(tmp_path / "plan.json", entries, {"workers": 2})
    assert load_plan(tmp_path / "plan.json") == (entries, {"workers": 2})
    Log(tmp_path / "worker-0.jsonl").write(Event("1", State.FAILED, "why"))
    Log(tmp_path / "worker-1.jsonl").write(Event("1", State.DONE))
    Log(tmp_path / "worker-1.jsonl").write(Event("2", State.FAILED, "why"))
    with (tmp_path / "worker-1.jsonl").open("a") as file:
        file.write('{"key": "3", "sta')  # as a killed worker leaves it
    assert {k: e.state for k, e in Log.read(tmp_path).items()} == {"1": State.DONE, "2": State.FAILED}
