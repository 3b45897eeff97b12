"""``dlm report`` from the command line: files, formats, marks, refusals."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dlm.commands.report import run
from dlm.errors import SettingsError, StorageError

from .stores import answers, at_speed, config, sweep, write

FILES = {"points.csv", "settings.csv", "methods.csv", "oracle.csv", "tasks.csv", "report.md", "report.html"}
PICTURES = {"mean_front", "score_by_speed", "heat_map", "task_map", "forwards", "decoding_order"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    sweep(tmp_path / "runs")
    return tmp_path / "runs"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_without_pictures(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(store), "pictures=false"]) == 0
    assert {path.name for path in (store / "report").iterdir()} == FILES
    points = rows(store / "report" / "points.csv")
    assert len(points) == 12
    assert {p["task"] for p in points} == {"waiting_line/copy", "waiting_line/shuffle"}
    methods = rows(store / "report" / "methods.csv")
    assert [m["method"] for m in methods] == ["threshold", "topk"]
    assert methods[0]["pb75_interpolated"] == "3"
    shown = capsys.readouterr().out
    assert "threshold*" in shown
    assert "PB70" in shown


def test_tables_for_papers(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([str(store), "pictures=false", "format=latex"]) == 0
    text = capsys.readouterr().out
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\bottomrule") == 2
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") for line in lines[:7]} == {5} and {line.count("&") for line in lines[7:]} == {8}
    best = [line for line in lines if r"\textbf" in line]
    assert len(best) == 1 and "$^{*}$" not in best[0]  # nothing differs from the best but others
    assert sum("$^{*}$" in line for line in lines) >= 1
    assert r"waiting\_line/copy 10 (\texttt{" in text
    plain = re.sub(r"\$[^$]*\$", "", "\n".join(line for line in text.splitlines() if not line.startswith("%")))
    assert not re.search(r"(?<!\\)[_%#]", plain)
    point = rows(store / "report" / "points.csv")
    assert len({p["questions_hash"] for p in point}) == 2  # one of each task, whatever the setting


def test_pictures_and_page(store: Path) -> None:
    assert run([f"dir={store}", "out=" + str(store.parent / "out")]) == 0
    out = store.parent / "out"
    assert {path.name for path in out.iterdir()} == FILES | {
        f"{name}.{ending}" for name in PICTURES for ending in ("png", "svg", "csv")
    }
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(PICTURES)
    text = re.sub(r"xmlns(:\w+)?=\"[^\"]*\"", "", page)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert not re.search(r"url\((?!#)", text)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    assert all(f"]({name}.png)" in (out / "report.md").read_text() for name in PICTURES)
    front = rows(out / "mean_front.csv")
    assert {r["front"] for r in front if r["method"] == "threshold"} == {"True"}


def test_closed_forms_are_drawn_over_what_was_measured_in_infill_form(tmp_path: Path) -> None:
    header = "task,decoding,k,tokens_per_forward,accuracy\n"
    lines = "".join(
        f"waiting_line/{task},{decoding},{k},{k},{1 / k}\n"
        for task in ("shuffle", "copy", "sort") for decoding in ("drawn", "best") for k in (2, 1)
    )  # fmt: skip
    (tmp_path / "closed_forms.csv").write_text(header + lines)
    for task, form in (("shuffle", "infill"), ("copy", "chat")):
        samples = at_speed([1, 0], 2, task=f"waiting_line/{task}")
        write(tmp_path, config("topk", f"waiting_line/{task}", sampler__tokens_per_step=2, form=form), samples)
    assert run([str(tmp_path)]) == 0
    found = [(r["task"], r["method"], r["tokens_per_forward"], r["score"])
             for r in rows(tmp_path / "report" / "closed_forms.csv")]  # fmt: skip
    forms = [("waiting_line/shuffle", f"closed form, {how}", k, s) for how in ("drawn", "best")
             for k, s in (("1", "1"), ("2", "0.5"))]  # fmt: skip
    assert found == [*forms, ("waiting_line/shuffle", "topk", "2", "0.5")]
    (tmp_path / "closed_forms.csv").write_text("task,k\nwaiting_line/shuffle,1\n")
    with pytest.raises(SettingsError, match="is not what `dlm oracle out=DIR` writes"):
        run([str(tmp_path)])


def test_the_same_store_gives_the_same_files(store: Path) -> None:
    for out in ("a", "b"):
        run([str(store), f"out={store.parent / out}"])
    for path in (store.parent / "a").iterdir():
        assert path.read_bytes() == (store.parent / "b" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("how", ["csv", "json", "markdown"])
def test_what_is_printed(store: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([str(store), "pictures=false", f"format={how}", "pair=[threshold threshold=0.9,topk tokens_per_step=1]"])
    shown = capsys.readouterr().out
    if how == "csv":
        assert shown == (store / "report" / "points.csv").read_text()
    elif how == "json":
        values = json.loads(shown)
        assert len(values["points"]) == 12
        assert [pair["task"] for pair in values["pairs"]] == ["waiting_line/copy", "waiting_line/shuffle", "all"]
        assert values["settings"][0]["score"] == pytest.approx(0.9)
    else:
        assert shown.startswith("# Report")
        assert "| threshold\\* |" in shown


def test_unfinished_points_and_missing_tasks_are_marked(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = {"status": "incomplete", "limit": 10, "seeds": [0]}
    folder = write(store, config(sampler__threshold=0.3), at_speed([1, 0, 1], 8), short)
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"instance_id": "q')
    run([str(store), "pictures=false"])
    shown = capsys.readouterr().out
    assert "points that are not whole" in shown
    assert "unfinished, torn last line" in shown
    assert "not measured on every task" in shown
    setting = next(r for r in rows(store / "report" / "settings.csv") if r["setting"] == "threshold=0.3")
    assert (setting["score"], setting["missing"], setting["marks"]) == ("", "waiting_line/shuffle", "1 unfinished")
    assert "class=marked" in (store / "report" / "report.html").read_text()


def test_a_point_without_any_answer_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, config(), [], {"status": "running", "limit": 5, "seeds": [0]})
    run([str(tmp_path)])
    shown = capsys.readouterr().out
    assert "points that are not whole" in shown
    assert rows(tmp_path / "report" / "points.csv")[0]["score"] == ""


def test_one_point_alone(tmp_path: Path) -> None:
    write(tmp_path, config(), answers([1, 0, 1]))
    assert run([str(tmp_path)]) == 0
    assert rows(tmp_path / "report" / "points.csv")[0]["score"] == "0.666667"
    assert (tmp_path / "report" / "oracle.csv").read_text().startswith("method,task,")  # no line, but its columns


def test_names_from_results_are_text_in_the_page(tmp_path: Path) -> None:
    nasty = "x/</script><b>|$a_1$"
    write(tmp_path, config(task=nasty), answers([1, 0], task=nasty, error_type="<i>"))
    run([str(tmp_path)])
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "</script><b>" not in page
    assert page.count("</script>") == 1
    assert "&lt;i&gt;=2" in page
    told = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "<b>" not in told and "x/&lt;/script>" in told


@pytest.mark.filterwarnings("ignore:Glyph")
def test_control_characters_in_results_command_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They stand in tables, page and pictures as escapes; the pictures stay well-formed."""
    nasty = "x/\x1b]0;a\x07\x00\u202e\ud800<i>"
    for task in (nasty, nasty + "2"):
        for level in ("\x1b[2J<b>", "\uffff"):
            values = config(f"thr\x1b{level}", task, sampler__threshold=level)
            write(tmp_path, values, at_speed([1, 0], 2, error_type="\x1b[31m<u>", task="x"))
    run([str(tmp_path), f"out={tmp_path / 'out'}"])
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "\\x1b]0;a\\x07" in shown.out
    for path in (tmp_path / "out").iterdir():
        if path.suffix == ".svg":
            ElementTree.parse(path)
        if path.suffix in (".md", ".html", ".svg"):
            text = path.read_text(encoding="utf-8")
            assert not any(sign in text for sign in "\x1b\x07\x00\u202e\uffff"), path
            assert not any(mark in text for mark in ("<i>", "<u>", "<b>")), path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder"),
        (["STORE", "format=xml"], "format must be one of"),
        (["STORE", "rule=theirs"], "rule must be ours or upstream"),
        (["STORE", "pbx=[0]"], "percentages"),
        (["STORE", "pbx=high"], "list of percentages"),
        (["STORE", "area=[4,1]"], "rising"),
        (["STORE", "area=[4]"], "rising"),
        (["STORE", "at=0"], "above 0"),
        (["STORE", "pictures=maybe"], "true or false"),
        (["STORE", "colour=red"], "unknown setting 'colour'"),
        (["STORE/absent"], "there is no folder"),
        (["STORE", "out=STORE/file"], "is a file"),
    ],
)
def test_refusals(store: Path, arguments: list[str], message: str) -> None:
    (store / "file").write_text("")
    with pytest.raises(SettingsError, match=message):
        run([argument.replace("STORE", str(store)) for argument in arguments])
    assert not (store / "report").exists()


def test_help_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "usage: dlm report" in capsys.readouterr().out
    assert run(["--cfg", "job", "at=3"]) == 0
    assert "at: 3" in capsys.readouterr().out


def test_nothing_heavy_is_loaded() -> None:
    """A report needs no model: torch would take longer than the report."""
    code = (
        "import sys, dlm.commands.report, dlm.report.page, dlm.report.pairs, dlm.report.reader;"
        "print([m for m in ('torch', 'hydra', 'matplotlib', 'datasets') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_report_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    write(tmp_path / "runs", config(), answers([1.0]))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"report cannot be written \(Not a directory\): give another out="):
        run([str(tmp_path / "runs"), f"out={tmp_path / 'file' / 'report'}", "pictures=false"])
