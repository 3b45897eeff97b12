"""Folders of results: what is read, what is passed over, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlm.errors import SettingsError
from dlm.evaluation.point import Point
from dlm.report.reader import read_lines, read_store, thin

from .stores import PLAIN, answers, config, write


def test_columns_hold_what_was_written(tmp_path: Path) -> None:
    samples = answers([1, 0], seconds=0.25)
    samples[1] = replace(samples[1], error_type="chimera", score_strict=None, commit_step=[2, 0], parts={"rouge": 0.5})
    write(tmp_path, config(), samples)
    (result,) = read_store([tmp_path]).results
    columns = result.columns
    assert columns["score"].tolist() == [1, 0]
    assert columns["content_forwards"].tolist() == [3, 3]
    assert columns["seconds"].tolist() == [0.25, 0.25]
    assert columns.commit_step.tolist() == [[0, 1, 2, 3], [2, 0, -1, -1]]
    assert np.isnan(columns.strict).tolist() == [False, True]
    assert columns.errors == {"chimera": 1}
    assert columns.parts == {"rouge": 0.5}
    assert (result.status, result.asked, result.failed) == ("done", 2, 0)


def test_what_is_cut_out_before_parsing_changes_nothing_else() -> None:
    """Texts may hold anything that looks like the marks."""
    nasty = '],"confidence":[1],"score":0,"output_text":"{\\'
    for sample in (
        PLAIN, replace(PLAIN, output_text=nasty, target=nasty), replace(PLAIN, parsed={"a": [1], "score": 0.0}),
        replace(PLAIN, parts={"x": 1.0, "score": 0.25, "confidence": 1.0}), replace(PLAIN, confidence=[]),
    ):  # fmt: skip
        line = sample.line().encode().rstrip()
        whole = json.loads(line)
        try:
            cut = json.loads(thin(line))
        except ValueError:
            continue  # read again whole
        assert cut == {key: whole[key] for key in cut}
        assert {"score", "forwards", "commit_step", "parts", "prompt_tokens"} <= set(cut)


def test_a_line_that_cannot_be_cut_is_read_whole(tmp_path: Path) -> None:
    odd = replace(PLAIN, parsed={"a": 1, "score": 0.25})
    folder = write(tmp_path, config(), [odd])
    assert read_store([tmp_path]).results[0].columns["score"].tolist() == [1.0]
    values = dict(reversed(json.loads(PLAIN.line()).items()))
    (folder / "samples.jsonl").write_text(json.dumps(values, indent=None) + "\n", encoding="utf-8")
    assert read_store([tmp_path]).results[0].columns["score"].tolist() == [1.0]


def test_shards_are_merged_and_the_first_line_wins(tmp_path: Path) -> None:
    folder = write(tmp_path, config(), answers([1, 0]), {"status": "done", "limit": 3, "seeds": [0]})
    again = answers([0, 1, 1])
    (folder / "samples-rank1.jsonl").write_text("".join(s.line() for s in again), encoding="utf-8")
    (folder / "samples-rank10.jsonl").write_text(replace(again[2], score=0.0).line(), encoding="utf-8")
    (result,) = read_store([tmp_path]).results
    assert result.columns["score"].tolist() == [1, 0, 1]


def test_one_point_in_two_folders_is_one_point(tmp_path: Path) -> None:
    write(tmp_path / "a", config(), answers([1, 0]))
    write(tmp_path / "b", config(), answers([0, 0, 1]))
    (result,) = read_store([tmp_path / "a", tmp_path / "b"]).results
    assert result.columns["score"].tolist() == [1, 0, 1]
    assert len(read_store([tmp_path, tmp_path / "a"]).results) == 1


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path, config(), answers([1, 1]))
    path = folder / "samples.jsonl"
    path.write_bytes(path.read_bytes() + PLAIN.line().encode()[:70])
    (result,) = read_store([tmp_path]).results
    assert len(result.columns) == 2
    assert result.torn == (str(path),)
    path.write_bytes(path.read_bytes()[:-70].rstrip())  # whole, but without its newline
    assert read_store([tmp_path]).results[0].torn == ()
    assert len(read_store([tmp_path]).results[0].columns) == 2


@pytest.mark.parametrize("middle", ["{broken", "[1, 2]", "", "7"])
def test_a_broken_line_is_named(tmp_path: Path, middle: str) -> None:
    folder = write(tmp_path, config(), answers([1, 1]))
    lines = (folder / "samples.jsonl").read_text().splitlines()
    (folder / "samples.jsonl").write_text("\n".join([lines[0], middle, lines[1]]) + "\n")
    with pytest.raises(SettingsError, match=r"samples\.jsonl line 2"):
        read_store([tmp_path])


def test_lines_of_something_else_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, config(), answers([1]))
    (folder / "samples.jsonl").write_text('{"doc_id": 3}\n')
    with pytest.raises(SettingsError, match="line 1 has no 'instance_id'"):
        read_store([tmp_path])
    values = json.loads(PLAIN.line()) | {"score": "good"}
    (folder / "samples.jsonl").write_text(json.dumps(values) + "\n")
    with pytest.raises(SettingsError, match="wrong kind"):
        read_store([tmp_path])


def test_folders_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no folder"):
        read_store([tmp_path / "absent"])
    with pytest.raises(SettingsError, match="no results in"):
        read_store([tmp_path])
    (tmp_path / "config.json").write_text('{"architectures": ["LLaDAModelLM"]}')  # a model's folder
    with pytest.raises(SettingsError, match="no results in"):
        read_store([tmp_path])
    (tmp_path / "samples.jsonl").write_text("")
    with pytest.raises(SettingsError, match="does not describe a point"):
        read_store([tmp_path])


def test_unfinished_points_and_failures(tmp_path: Path) -> None:
    def status(name: str, manifest: dict, failures: list[str]) -> str:
        folder = write(tmp_path / name, config(), answers([1, 0]), manifest)
        lines = [json.dumps({"instance_id": q, "seed": 0, "kind": "X", "message": "y"}) for q in failures]
        (folder / "failures.jsonl").write_text("".join(line + "\n" for line in lines))
        return read_store([tmp_path / name]).results[0].status

    done, wanted = {"status": "done", "seeds": [0]}, {"status": "incomplete", "seeds": [0]}
    assert status("a", {**done, "limit": 2}, []) == "done"
    assert status("b", {**done, "limit": 3}, []) == "unfinished"
    assert status("c", {**wanted, "limit": 4}, []) == "unfinished"
    assert status("d", {**wanted, "limit": 3}, ["q2", "q2"]) == "failures"
    assert status("e", {**wanted, "limit": 9}, ["q2"]) == "unfinished"  # not asked yet
    assert status("f", {**done, "limit": 2}, ["q1"]) == "done"  # it failed once and was answered then
    assert status("g", {}, []) == "done"


def test_a_task_with_fewer_questions_than_the_limit_is_done(tmp_path: Path) -> None:
    folder = write(tmp_path, config(), answers([1, 0]), {"status": "done", "limit": 100, "seeds": [0]})
    (folder / "metrics.json").write_text('{"asked": 2}')
    assert read_store([tmp_path]).results[0].status == "done"


def test_read_lines_of_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    assert read_lines(tmp_path / "x") == ([], False)


def test_the_point_is_the_one_of_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, config(), answers([1]))
    assert read_store([tmp_path]).results[0].point.hash == Point(config()).hash
