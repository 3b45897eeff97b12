"""Figures of a model in memory: the runner's, without its folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dlm
import samplers
from dlm import tasks
from dlm.errors import NumericsError, PromptError, SettingsError
from dlm.evaluation.scoring import score
from tests.evaluation.runs import Faulty, go, tiny


def test_a_score_is_what_a_run_keeps(tmp_path: Path) -> None:
    kept = go(tmp_path, "sampler=topk", "sampler.tokens_per_step=4", "blocks.length=8").figures
    sampler = samplers.topk(tokens_per_step=4, blocks=samplers.Fixed(8))
    found = score(tiny(), tasks.get("waiting_line/copy"), sampler, n=6, batch_size=4)
    timed = {"seconds", "seconds_model", "tokens_per_second"}
    assert {k: v for k, v in found.items() if k not in timed} == {k: kept[k] for k in found if k not in timed}
    assert found["forwards"] == 8


def test_what_cannot_be_answered_is_raised() -> None:
    task = tasks.get("waiting_line/copy")
    mark = tiny().encode_chat(task.instance(2).messages)[-6]
    with pytest.raises(NumericsError):
        score(Faulty(mark, "nan"), task, samplers.topk(), n=4)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="context"):
        score(tiny(), task, samplers.topk(), n=1, max_new_tokens=4096)


@pytest.mark.slow
def test_the_public_names_load_neither_hydra_nor_datasets() -> None:
    code = (
        "import sys; from dlm.evaluation import score, sweep;"
        "print([m for m in ('hydra', 'omegaconf', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_an_evaluation_keeps_its_samples(tmp_path: Path) -> None:
    sampler = samplers.topk(tokens_per_step=4, blocks=samplers.Fixed(8))
    found = dlm.evaluate(tiny(), "waiting_line/copy", sampler=sampler, cache="dual", n=6, batch_size=4)
    assert [sample.index for sample in found] == list(range(6)) and len(found) == 6
    assert found.score == sum(sample.score for sample in found) / 6 == found.figures["accuracy"]
    assert found.interval[0] <= found.score <= found.interval[1]
    assert (
        f"score (equal lists)        {found.score:.3f} [" in found.report()
        and "forwards                   8.00" in found.report()
    )
    assert "<th>questions</th><td>6</td>" in found._repr_html_() and "over 6 questions" in repr(found)
    assert found[0] == found.samples[0] and found[1:3] == found.samples[1:3]
    assert list(found.to_pandas()["output_text"]) == [sample.output_text for sample in found]


def test_it_needs_no_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dlm.evaluate("tiny", "waiting_line/copy", sampler="topk", n=1, max_new_tokens=4)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SettingsError, match="pip install pandas"):
        found.to_pandas()


def test_a_task_whose_answers_are_programs(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"prompt": "Write f.", "answer": "assert f(2) == 4"}\n')
    task = dlm.tasks.open("jsonl", path=str(file), scorer="python")
    found = dlm.evaluate(tiny(), task, sampler="topk", n=None, max_new_tokens=8, form="one_turn", seed=3)
    assert len(found) == 1 and found[0].seed == 3 and found[0].error_type is not None
    assert "error: " in found.report()


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("waiting_line/copy", {"n": None}, "has no end"),
        ("waiting_line/copy", {"n": 0}, "n must be at least 1"),
        ("waiting_line/copy", {"form": "poem"}, "form must be one of auto, chat"),
        ("waiting_line/copy", {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ("juggle", {}, "unknown task 'juggle'"),
        (object(), {}, "object is no task"),
        ("waiting_line/copy", {"limit": 4}, "evaluate"),
    ],
)
def test_bad_settings(task: object, options: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        dlm.evaluate(tiny(), task, sampler="topk", **options)  # type: ignore[arg-type]
