"""Points that did not answer the same questions: what is compared, and what is said of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from dlm.commands.report import run
from dlm.report.common import common_questions
from dlm.report.tables import front_of, sheets_of

from .stores import at_speed, config, write
from .test_summary import COPY, summary


def sets(*sizes: range) -> list[frozenset[int]]:
    return [frozenset(size) for size in sizes]


@pytest.mark.parametrize(
    ("asked", "common"),
    [
        (sets(range(100), range(6)), range(100)),  # six of a hundred are no comparison
        (sets(range(100), range(80)), range(80)),
        (sets(range(100), *[range(40)] * 20), range(40)),  # one that went on alone
        (sets(range(97), range(3, 100), range(100)), range(3, 97)),  # failures here and there
        (sets(range(5), range(5)), range(5)),
        (sets(range(0), range(5)), range(5)),
        ([], ()),
        (sets(range(0)), ()),
    ],
)
def test_the_questions_that_points_are_compared_on(asked: list[frozenset[int]], common: object) -> None:
    assert common_questions(asked) == frozenset(common)  # type: ignore[call-overload]


def test_a_point_with_few_answers_takes_no_star(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, config(sampler__threshold=0.9), at_speed([1] * 90 + [0] * 10, 2))
    write(tmp_path, config(sampler__threshold=0.7), at_speed([1] * 6, 4))
    found = summary(tmp_path)
    assert [m.setting for m in front_of(found.means)] == ["threshold=0.9"]
    assert {m.setting: (m.questions, m.apart) for m in found.means} == {
        "threshold=0.9": (100, ()), "threshold=0.7": (6, (COPY,)),
    }  # fmt: skip
    assert (found.standings[0].settings, found.standings[0].complete) == (2, 1)
    assert [f.row.setting for f in found.compared] == ["threshold=0.9"]
    run([str(tmp_path), "pair=[threshold threshold=0.9,threshold threshold=0.7]"])
    shown = capsys.readouterr().out
    assert "1 other questions" in shown and "94 answers of one alone left out" in " ".join(shown.split())
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "class=marked" in page and "done, other questions" in page
    with (tmp_path / "report" / "mean_front.csv").open(encoding="utf-8") as file:
        assert [row["setting"] for row in csv.DictReader(file)] == ["threshold=0.9"]


def test_what_is_compared_is_compared_on_the_same_questions(tmp_path: Path) -> None:
    write(tmp_path, config(sampler__threshold=0.9), at_speed([1] * 8 + [0] * 2, 2))
    write(tmp_path, config(sampler__threshold=0.7), at_speed([1] * 7 + [0], 4))
    rows = {f.row.setting: f.row for f in summary(tmp_path).figures}
    assert {s: (r.score, r.samples, r.answers) for s, r in rows.items()} == {
        "threshold=0.9": (1.0, 8, 10), "threshold=0.7": (0.875, 8, 8),
    }  # fmt: skip
    marked = sheets_of(summary(tmp_path))[-1]
    assert [row[2] for row in marked.rows] == ["compared on 8"]
