"""``dlm lm-eval``: which argument is whose, what is written, and what is said when something is wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dlm.commands.lm_eval import run
from dlm.errors import SettingsError
from dlm.evaluation.harness.launch import read_flags, samples_file, split_flags
from tests.evaluation.harness_doubles import DATA

FAST = ["sampler=topk", "sampler.tokens_per_step=8", "max_new_tokens=16", "batch_size=4"]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Only the folder of gsm8k is searched for tasks, and nobody asks pip about the machine."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "gsm8k"
    short = partial(lm_eval.tasks.TaskManager, include_defaults=False)

    def known(include_path: str | None = None, metadata: Any = None) -> Any:
        return short(include_path=[str(folder), *([include_path] if include_path else [])], metadata=metadata)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", known)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


@pytest.mark.parametrize(
    ("arguments", "flags", "ours"),
    [
        (["--tasks", "a", "b", "model=tiny"], ["--tasks", "a", "b"], ["model=tiny"]),
        (["--tasks", "a,b", "--limit", "5", "x.y=1"], ["--tasks", "a,b", "--limit", "5"], ["x.y=1"]),
        (["--apply_chat_template", "seed=1"], ["--apply_chat_template"], ["seed=1"]),
        (["--apply_chat_template", "name", "seed=1"], ["--apply_chat_template", "name"], ["seed=1"]),
        (["--gen_kwargs", "a=1,b=2", "seed=1"], ["--gen_kwargs", "a=1,b=2"], ["seed=1"]),
        (["--system_instruction", "a=b c", "~x"], ["--system_instruction", "a=b c"], ["~x"]),
        (["seed=1", "--limit=5", "path=f"], ["--limit=5"], ["seed=1", "path=f"]),
        (["--log_samples", "seed=1", "-t", "a"], ["--log_samples", "-t", "a"], ["seed=1"]),
        (["--num_few", "2", "seed=1"], ["--num_few", "2"], ["seed=1"]),
        (["--seed", "-1", "seed=1"], ["--seed", "-1"], ["seed=1"]),
    ],
)
def test_every_key_value_is_ours_but_the_one_behind_a_flag(
    arguments: list[str], flags: list[str], ours: list[str]
) -> None:
    assert split_flags(arguments) == (flags, ours)


def test_a_local_file_takes_the_place_of_the_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ["--tasks", "gsm8k", "--limit", "3", "--num_fewshot", "1", "--log_samples", "--output_path", str(out)]
    assert run([*asked, f"path={DATA}", *FAST]) == 0
    shown = capsys.readouterr().out
    assert "exact_match" in shown and "tokens_per_forward" in shown
    assert f"answers and counters: {out}/dlm_samples.jsonl" in shown
    (results,) = (out / "tiny").glob("results_*.json")
    told = json.loads(results.read_text())
    assert told["results"]["gsm8k"]["forwards,dlm"] == 2
    assert told["config"]["model"] == "dlm"
    assert "topk" in told["config"]["dlm_settings"][0]
    assert told["n-samples"]["gsm8k"]["effective"] == 3
    (logged,) = (out / "tiny").glob("samples_gsm8k_*.jsonl")
    assert len(logged.read_text().splitlines()) == 3 * 2
    kept = [json.loads(line) for line in (out / "dlm_samples.jsonl").open()]
    assert sorted(line["doc_id"] for line in kept) == [0, 1, 2]
    assert all(line["canvas"] == 16 and line["forwards"] == 2 for line in kept)


def test_examples_from_another_file_and_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shots = tmp_path / "shots.jsonl"
    shots.write_text("".join(f'{{"question": "What is {n}?", "answer": "#### {n}"}}\n' for n in range(3)))
    cache = tmp_path / "kept" / "cache"
    asked = ["--tasks", "gsm8k", "--limit", "2", "--num_fewshot", "2", "--use_cache", str(cache), "-b", "2"]
    outputs = []
    for _ in range(2):
        assert run([*asked, f"path={DATA}", f"shots_path={shots}", *FAST[:-1]]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert len(Path(f"{cache}.samples.jsonl").read_text().splitlines()) == 2
    assert "uncounted" not in outputs[1]


def test_where_answers_are_kept() -> None:
    def kept(*flags: str, given: str | None = None) -> str:
        return str(samples_file(given, read_flags(["--tasks", "gsm8k", *flags])))

    assert kept() == "None"
    assert kept("--output_path", "o") == "o/dlm_samples.jsonl"
    assert kept("--output_path", "o", "--use_cache", "c") == "c.samples.jsonl"
    assert kept("--output_path", "o.json") == "None"
    assert kept("--use_cache", "c", given="mine.jsonl") == "mine.jsonl"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which tasks"),
        (["--model", "hf", "--tasks", "gsm8k"], "--model is said with model=NAME"),
        (["--model_args=pretrained=gpt2", "--tasks", "gsm8k"], "--model_args is said with"),
        (["--tasks", "gsm9k"], "gsm9k.*lm-eval ls tasks"),
        (["--tasks", "gsm8k", "--limit", "many"], "--limit"),
        (["--tasks", "gsm8k", "--colour", "red"], "--colour"),
        (["--tasks", "gsm8k", "--log_samples"], "--output_path"),
        (["--tasks", "gsm8k", "--wandb_args", "project=x"], "wandb_args"),
        (["--tasks", "gsm8k", "--samples", '{"gsm8k": [1]}', "--limit", "1"], "--limit"),
        (["--tasks", "gsm8k", "sampler=thresh"], "unknown sampler 'thresh'"),
        (["--tasks", "gsm8k", "tokens=5"], "unknown setting 'tokens'"),
        (["--tasks", "gsm8k", "max_new_tokens=0", f"path={DATA}"], "max_new_tokens"),
        (["--tasks", "gsm8k", "likelihood.mc_num=0", f"path={DATA}"], "mc_num"),
        (["--tasks", "gsm8k", "path=/nowhere.jsonl"], "no such file"),
        (["--tasks", "gsm8k", f"shots_path={DATA}"], "path="),
        (["--tasks", "gsm8k,gsm8k_cot", f"path={DATA}"], "exactly one"),
        (["--tasks", "gsm8k", "--batch_size", "auto"], "batch_size"),
        (["--tasks", "gsm8k", f"path={DATA}", "max_new_tokens=512"], "gsm8k, document 0.*num_fewshot"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(arguments)
    assert type(caught.value).__module__ == "dlm.errors"
    assert "\n" not in str(caught.value)


def test_data_that_cannot_be_had_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gsm8k: its data.*give path=FILE"):
        run(["--tasks", "gsm8k", "--limit", "1", *FAST])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("assert False, 'antlr4-python3-runtime==4.11 is required'", "antlr compares formulas with antlr4-.* gsm8k$"),
        ("raise FileNotFoundError('Couldn\\'t find a module script')", "fetches its metric .* path= does not replace"),
    ],
)
@pytest.mark.parametrize("local", [(), (f"path={DATA}",)])
def test_tasks_that_cannot_be_loaded_say_why(body: str, message: str, local: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"def answer(doc):\n    return doc\n{body}\n", encoding="utf-8")
    (tmp_path / "antlr.yaml").write_text(
        "task: antlr\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {DATA}\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_target: !function own.answer\n",
        encoding="utf-8",
    )
    with pytest.raises(SettingsError, match=message):
        run(["--tasks", "antlr", "--include_path", str(tmp_path), "--limit", "1", *local, *FAST])


def test_tasks_that_run_programs_want_leave(tmp_path: Path) -> None:
    (tmp_path / "code.yaml").write_text(
        "task: humaneval_like\ndataset_path: json\nunsafe_code: true\noutput_type: generate_until\ntest_split: test\n"
        f"dataset_kwargs:\n  data_files:\n    test: {DATA}\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_target: '{{answer}}'\nmetric_list:\n  - metric: exact_match\n"
    )
    asked = ["--tasks", "humaneval_like", "--include_path", str(tmp_path), "--limit", "1", *FAST]
    with pytest.raises(SettingsError, match="--confirm_run_unsafe_code"):
        run(asked)
    assert run([*asked, "--confirm_run_unsafe_code"]) == 0


def test_help_and_cfg(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--tasks gsm8k" in shown and "sampler=adablock" in shown
    assert run(["--cfg", "job", "--limit", "5", "sampler=topk"]) == 0
    assert "_target_: samplers.topk" in capsys.readouterr().out
