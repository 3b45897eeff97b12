"""``dlm report curves=FILE``: PBx of published curves, by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from dlm.commands.report import run
from dlm.errors import SettingsError

HEAD = "model,method,kind,speed,score\n"
# Adaptive: last above 80 between 3 and 5, a fifth of the way from 84 to 64; static: the largest grid value.
CURVES = """a,threshold,adaptive,1.5,86
a,threshold,adaptive,5,64
a,threshold,adaptive,3,84
a,topk,static,1,85
a,topk,static,2,80
a,topk,static,4,60
"""


def test_the_published_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curves.csv").write_text(HEAD + CURVES)
    assert run([f"curves={tmp_path}/curves.csv", "pbx=[90,80,60]", "format=csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [tuple(line.values()) for line in lines] == [
        ("threshold", "adaptive", "3", "0.00", "3.40", "5.00"),
        ("topk", "static", "3", "0.00", "2.00", "4.00"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"curves.csv"}  # nothing is written


@pytest.mark.parametrize("how", ["table", "json", "markdown"])
def test_how_it_is_printed(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curves.csv").write_text("\ufeff" + HEAD + CURVES, encoding="utf-8")
    run([f"curves={tmp_path}/curves.csv", "pbx=[80]", f"format={how}"])
    shown = capsys.readouterr().out
    assert "3.40" in shown
    if how == "json":
        assert [line["PB80"] for line in json.loads(shown)] == ["3.40", "2.00"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "a,x,static,2\n", "line 2 must have method, kind, speed, score"),
        (HEAD + CURVES + "a,x,fast,2,50\n", "line 8 must have"),
        (HEAD + "a,x,static,2,nan\n", "line 2 must have"),
        ("method,speed\nx,2\n", "line 2 must have"),
        (HEAD, "holds no point"),
        (None, "there is no file"),
    ],
)
def test_refusals(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "curves.csv").write_text(text)
    with pytest.raises(SettingsError, match=message):
        run([f"curves={tmp_path}/curves.csv"])


def test_it_stands_alone(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="or published curves"):
        run([str(tmp_path), "curves=curves.csv"])
