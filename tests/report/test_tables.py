"""What the tables of a report show."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dlm.report.pairs import compare
from dlm.report.tables import LONGEST, MOST, fitting, rich_table, sheets_of

from .stores import answers, config, sweep, write
from .test_summary import COPY, SHUFFLE, summary


def test_tasks_that_share_no_setting_have_their_scores_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, config("topk", SHUFFLE), answers([1, 0, 0, 0]))
    write(tmp_path, config("threshold", COPY), answers([1, 1]))
    means, points = sheets_of(summary(tmp_path), longest=LONGEST)[:2]
    assert {row[3] for row in means.rows} == {"-"}
    assert [(row[0], row[1], row[3], row[4]) for row in points.rows] == [
        (COPY, "threshold", "2", "100.0"), (SHUFFLE, "topk", "4", "25.0"),
    ]  # fmt: skip


def test_one_task_and_very_many_points_are_not_listed_twice(tmp_path: Path) -> None:
    write(tmp_path, config("threshold", COPY), answers([1]))
    assert "task by task" not in [sheet.title for sheet in sheets_of(summary(tmp_path))]
    for i in range(LONGEST + 1):
        write(tmp_path, config("topk", SHUFFLE, sampler__tokens_per_step=i + 1), answers([1]))
    assert LONGEST < MOST
    assert "task by task" not in [sheet.title for sheet in sheets_of(summary(tmp_path), longest=LONGEST)]
    assert "task by task" in [sheet.title for sheet in sheets_of(summary(tmp_path))]


@pytest.mark.parametrize("width", [60, 80, 150])
def test_tables_fit_the_terminal(tmp_path: Path, width: int) -> None:
    sweep(tmp_path, n=100)
    console = Console(file=io.StringIO(), width=width)
    found = summary(tmp_path)
    for sheet in sheets_of(found, compare(found.figures, ["topk tokens_per_step=1", "topk tokens_per_step=4"])):
        parts = fitting(sheet, width)
        assert [h for p in parts for h in p.heads[p.names :]] == list(sheet.heads[sheet.names :])
        for part in parts:
            console.print(rich_table(part))
            text = console.file.getvalue()  # type: ignore[attr-defined]
            for row in part.rows:
                assert all(cell in text for cell in row[part.names :]), (part.title, row)  # no number is broken
    assert max(map(len, text.splitlines())) <= width
