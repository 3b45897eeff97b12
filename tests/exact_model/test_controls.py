"""``dlm oracle controls``: the laws, what comes out where arithmetic says it, and what the command prints."""

from __future__ import annotations

import csv
import json
from math import sqrt
from pathlib import Path

import pytest

import samplers
from dlm.commands import oracle
from dlm.errors import SettingsError
from dlm.exact_model.controls import CONTROLS, hold, unavoidable

LAWS = {control.name: control for control in CONTROLS}
AT_ONCE = {"names": 1 / 4, "lists": 24 / 4**8, "parity": 1 / 2, "orders": 24 / 4**4}
AT_ONCE |= {"modes": 4 / 4**4, "bits": 1.0}
N = 1000
SLACK = 0.03  # three standard deviations of the distance, at most


def near(share: float, exact: float) -> bool:
    return abs(share - exact) <= (0 if exact in (0, 1) else 4 * sqrt(exact * (1 - exact) / N) + 1 / N)


@pytest.mark.parametrize("name", LAWS)
def test_all_at_once_is_right_as_often_as_chance_says(name: str) -> None:
    control = LAWS[name]
    outcome = hold(control, samplers.random(steps=1, temperature=1.0), N)
    assert control.at_once == pytest.approx(AT_ONCE[name])
    assert near(outcome.accuracy, AT_ONCE[name]) and outcome.forwards == 1


@pytest.mark.parametrize("name", LAWS)
def test_one_at_a_time_draws_the_law(name: str) -> None:
    outcome = hold(LAWS[name], samplers.random(temperature=1.0), N)
    assert (outcome.accuracy, outcome.forwards) == (1.0, LAWS[name].length)
    assert outcome.distance <= unavoidable(LAWS[name], N) + SLACK


FORWARDS = {"names": 2, "lists": 4, "parity": 4, "orders": 4, "modes": 2, "bits": 4}


@pytest.mark.parametrize("name", LAWS)
def test_the_entropy_bound_is_right_everywhere(name: str) -> None:
    outcome = hold(LAWS[name], samplers.eb(temperature=1.0), N)
    assert (outcome.accuracy, outcome.forwards) == (1.0, FORWARDS[name])
    assert outcome.distance <= unavoidable(LAWS[name], N) + SLACK


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", LAWS)
def test_verified_drafts_are_right_everywhere_and_keep_the_law(name: str) -> None:
    """No more forwards than the entropy bound that it goes on from."""
    outcome = hold(LAWS[name], samplers.verified(temperature=1.0), N)
    assert outcome.accuracy == 1.0 and outcome.forwards <= FORWARDS[name]
    assert outcome.distance <= unavoidable(LAWS[name], N) + SLACK
    best = hold(LAWS[name], samplers.verified(), 50)
    assert best.accuracy == 1.0 and best.forwards <= FORWARDS[name]


def test_the_overlap_bound_does_not_see_what_shares_no_token() -> None:
    outcome = hold(LAWS["names"], samplers.overlap(temperature=1.0), N)
    assert near(outcome.accuracy, 1 / 4) and outcome.forwards == 1
    assert hold(LAWS["lists"], samplers.overlap(temperature=1.0), N).accuracy < 0.1
    assert hold(LAWS["orders"], samplers.overlap(temperature=1.0), N).accuracy == 1.0


def test_the_command_shows_all_and_says_who_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["controls", "samplers=[eb,overlap,wino]", "rollouts=20", f"out={tmp_path}"]
    assert oracle.run(asked) == 0
    printed = capsys.readouterr().out
    assert "100/4.0" in printed and "left out: wino: " in printed
    assert oracle.run([*asked, "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "controls.json").read_text()) == told
    lines = list(csv.DictReader((tmp_path / "controls.csv").open()))
    assert len(lines) == len(told["records"]) == 2 * len(CONTROLS)
    assert told["records"][0] == {
        "sampler": "eb", "control": "names", "rollouts": 20, "accuracy": 1.0, "forwards": 2.0,
        "distance": pytest.approx(told["records"][0]["distance"]),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["controls", "task=shuffle"], "leave task and n out"),
        (["controls", "n=3"], "leave task and n out"),
        (["controls", "samplers=nobody"], "unknown sampler 'nobody'"),
        (["controls", "samplers=wino"], "no sampler goes with the oracle"),
        (["controls", "rollouts=0"], "rollouts must be"),
        (["controls", "sampler=eb"], "leave sampler out"),
        (["samplers=eb"], "for dlm oracle controls"),
    ],
)
def test_bad_settings_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        oracle.run(overrides)
