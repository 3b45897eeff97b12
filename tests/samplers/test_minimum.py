"""``minimum`` of the adaptive selectors: never fewer positions a step, whatever the rule says."""

from __future__ import annotations

import pytest

import dlm
import samplers
from dlm.errors import SettingsError
from tests.doubles import confidence_table, table_model

CONFIDENCES = [0.55, 0.95, 0.30, 0.92, 0.45]


def commits(selector: object) -> list[list[int]]:
    model = table_model(confidence_table(CONFIDENCES))
    sampler = dlm.Sampler("m", samplers.Probability(), selector, samplers.Whole())  # type: ignore[arg-type]
    run = dlm.generate(model, [[1]], sampler=sampler, max_new_tokens=len(CONFIDENCES), record="commits")[0]
    assert run.trace is not None
    return [[position - 1 for position in step.positions] for step in run.trace.steps]


def test_threshold_commits_at_least_the_minimum() -> None:
    assert commits(samplers.Threshold(0.9, minimum=2)) == [[1, 3], [0, 4], [2]]
    assert commits(samplers.Threshold(0.94, minimum=3)) == [[0, 1, 3], [2, 4]]
    assert commits(samplers.Threshold(0.4, minimum=2)) == [[0, 1, 3, 4], [2]]


def test_factor_commits_at_least_the_minimum() -> None:
    assert commits(samplers.Factor(0.0, minimum=2)) == [[1, 3], [0, 4], [2]]
    assert commits(samplers.Factor(1.0, compat="d2cache", minimum=3)) == [[0, 1, 3], [2, 4]]


@pytest.mark.parametrize("part", [samplers.Threshold, samplers.Factor])
def test_minimum_below_one_is_refused(part: type) -> None:
    with pytest.raises(SettingsError, match="minimum"):
        part(minimum=0)
