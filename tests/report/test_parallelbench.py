"""``dlm report format=parallelbench``: what the published tools read, and the table that they make of it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from dlm.commands.report import run
from dlm.errors import SettingsError

from .stores import at_speed, config, sweep, write

TASKS = ("parallelbench/waiting_line/copy", "parallelbench/text/summarise")


def reported(store: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    assert run([str(store), "pictures=false", "format=parallelbench"]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_a_file_for_every_setting_and_a_line_for_every_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(tmp_path, TASKS)
    lines = reported(tmp_path, capsys)
    files = sorted((tmp_path / "report" / "parallelbench").rglob("results_*.json"))
    # The published reader takes one file of each folder two above a file.
    assert len(files) == len({file.parent.parent for file in files}) == 6
    assert len(lines) == 12 and {Path(line["results_file"]) for line in lines} == set(files)
    assert {line["unmasking"] for line in lines} == {"confidence_topk", "confidence_threshold"}
    for line in lines:
        data = json.loads(Path(line["results_file"]).read_text())
        assert set(data["results"]) == set(data["configs"]) == {
            "parallelbench_waiting_line_copy", "parallelbench_text_writing_summarization",
        }  # fmt: skip
        figures, used = data["results"][line["task"]], data["configs"][line["task"]]["generation_kwargs"]
        for metric in ("score", "score_strict", "nfe", "tokens_per_step", "input_length", "output_length"):
            assert float(line[metric]) == figures[f"{metric},none"]
        assert used["max_tokens"] == 8 and used["temperature"] == 0
        assert float(line["tokens_per_step"]) == 8 / float(line["nfe"])
        assert data["n-samples"][line["task"]]["effective"] == int(line["n_samples"]) == 10
        if used["unmasking"] == "confidence_topk":
            assert used["k"] == figures["tokens_per_step,none"] and "alg_threshold" not in used
        else:
            assert used["alg_threshold"] in (0.9, 0.7, 0.5) and "k" not in used
        assert (data["model_name"], data["config"]["gen_kwargs"]) == ("tiny", {})
    worst = next(line for line in lines if line["k"] == "4" and line["task"].endswith("summarization"))
    assert (worst["score"], worst["alg_factor"]) == ("10.0", "")  # in percent


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("parallelbench/puzzle/sudoku", "parallelbench_puzzles_sudoku_n4"),
        ("parallelbench/text/words_to_sentence_hard", "parallelbench_text_writing_words_to_sentence_hard"),
        ("parallelbench/waiting_line_n15/sort", "parallelbench_waiting_line_n15_sort"),
        ("upstream/words_to_sentence/easy", "parallelbench_text_writing_words_to_sentence_easy"),
        ("upstream/paraphrase_summarize/chatgpt-paraphrases", "parallelbench_text_writing_paraphrasing"),
        ("upstream/puzzles/latin_square_n4", "parallelbench_puzzles_latin_square_n4"),
        ("upstream/waiting_line/copy", "parallelbench_waiting_line_copy"),
        ("waiting_line/copy", "waiting_line_copy"),
        ("gsm8k", "gsm8k"),
    ],
)
def test_tasks_have_their_published_names(
    task: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, config(task=task, cache={"choice": "dual"}), at_speed([1, 0], 2, task=task, score_strict=None))
    [line] = reported(tmp_path, capsys)
    assert (line["task"], line["score"], line["score_strict"]) == (name, "50.0", "")
    assert line["unmasking"] == "confidence_threshold+dual"  # no name of theirs: they would take it for the plain one
    assert '"score_strict,none": "N/A"' in Path(line["results_file"]).read_text()


def test_steps_give_a_budget_and_earlier_files_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "report" / "parallelbench" / "old" / "run" / "results_parallelbench.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    values = config("random", TASKS[0], sampler__steps=4, sampler__tokens_per_step=None, blocks__length=8)
    write(tmp_path, values, at_speed([1], 2, task=TASKS[0]))
    [line] = reported(tmp_path, capsys)
    assert (line["unmasking"], line["k"], line["steps"], line["block_length"]) == ("random", "2.0", "4", "8")
    assert not stale.exists()


def test_two_suites_in_one_report_are_refused(tmp_path: Path) -> None:
    for task in ("parallelbench/waiting_line/copy", "upstream/waiting_line/copy"):
        write(tmp_path, config(task=task), at_speed([1], 2, task=task))
    with pytest.raises(SettingsError, match="are both parallelbench_waiting_line_copy"):
        run([str(tmp_path), "pictures=false", "format=parallelbench"])
