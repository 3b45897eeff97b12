"""The command line, on the packaged model, in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import dlm
import samplers
from dlm.cli import main
from dlm.commands.common import flags_as_settings

PROMPT = 'Copy the list: ["Anna", "Bob", "Cleo"]'


def run(*arguments: str) -> int:
    return main(["generate", *arguments])


def test_json_has_every_field_and_equals_the_python_api(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"prompt={PROMPT}", "max_new_tokens=32", "sampler.threshold=0.8", "format=json", "seed=1") == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    (answer,) = dlm.generate(
        dlm.load("tiny"), [PROMPT], sampler=samplers.threshold(0.8), max_new_tokens=32, seed=1
    )  # fmt: skip
    assert told["prompt"] == PROMPT
    for field in ("text", "tokens", "commit_step", "stop", "prompt_tokens"):
        assert told[field] == getattr(answer, field)
    assert set(told["counts"]) == set(dlm.Counts.__annotations__)
    assert told["counts"]["forwards"] == answer.counts.forwards


def test_any_text_is_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    model = dlm.load("tiny")
    for text in ("a=b, [c], {d}: \"e\" 'f' ${g} \\ #h", "två\nrader", "x"):
        assert run(f"prompt={text}", "max_new_tokens=4", "format=json") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["prompt_tokens"] == model.encode(text)


def test_a_word_that_is_no_setting_is_the_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    model = dlm.load("tiny")
    for text in ("47+85=", PROMPT, "x = 3?", "hello"):
        assert run("max_new_tokens=4", text, "format=json") == 0
        assert json.loads(capsys.readouterr().out)["prompt_tokens"] == model.encode(text)
    for words, said in (
        (["a", "b"], "two prompts"),
        (["a", "prompt=b"], "two prompts"),
        (["x=3"], "unknown setting 'x'"),
    ):
        assert run(*words) == 2
        assert said in capsys.readouterr().err


def test_chat_and_ids_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = dlm.load("tiny")
    assert run(f"prompt={PROMPT}", "chat=true", "max_new_tokens=16", "format=json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prompt_tokens"] == model.encode_chat([{"role": "user", "content": PROMPT}])
    assert run("prompt_ids=[5,6,7]", "max_new_tokens=4", "format=json") == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == [5, 6, 7]
    lines = [{"prompt": "1+1="}, {"messages": [{"role": "user", "content": "x"}]}, {"ids": [9, 8]}]
    source = tmp_path / "prompts.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    target = tmp_path / "answers.jsonl"
    assert run(f"prompts_file={source}", "max_new_tokens=4", "format=json", f"output={target}") == 0
    answers = [json.loads(line) for line in target.read_text().splitlines()]
    assert [a["prompt"] for a in answers] == ["1+1=", lines[1]["messages"], [9, 8]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["answers.jsonl", "prompts.jsonl"]


def test_text_goes_to_stdout_and_figures_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"prompt={PROMPT}", "max_new_tokens=32") == 0
    out, err = capsys.readouterr()
    (answer,) = dlm.generate(dlm.load("tiny"), [PROMPT], sampler=samplers.threshold(), max_new_tokens=32)
    assert out == answer.text + "\n"
    assert f"in {answer.counts.forwards} of {answer.counts.forwards} forward" in err


def test_live_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"prompt={PROMPT}", "max_new_tokens=16", "sampler=topk", "format=live") == 0
    out = capsys.readouterr().out
    assert out.startswith("[0] step 0 +")
    assert "░" in out
    assert "tokens per forward" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of prompt, prompt_ids, prompts_file (none is given)"),
        (["prompt=a", "prompt_ids=[1]"], "prompt and prompt_ids are given"),
        (["prompt="], "prompt 0 is empty"),
        (["prompts_file=nowhere.jsonl"], "does not exist"),
        (["prompt=a", "format=xml"], "format must be one of"),
        (["prompt=a", "format=jsno"], "got 'jsno' (did you mean json?)"),
        (["prompt=a", "max_new_tokens=0"], "max_new_tokens must be at least 1"),
        (["prompt=a", "blocks.length=64", "max_new_tokens=32"], "longer than the canvas"),
        (["prompt=a", "max_new_tokens=100000"], "more than the model's context"),
        (["prompt_ids=[5,1]"], "contains the mask id"),
        (["prompt=a", "sampler=nope"], "known are"),
        (["prompt=a", "model=local", "model.path=/nowhere"], "/nowhere"),
    ],
)
def test_an_error_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dlm: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"text": "a"}', '{"prompt": 3}', '{"ids": ["a"]}', '{"messages": "x"}'])
def test_a_bad_line_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"prompt": "a"}\n' + line + "\n")
    assert run(f"prompts_file={source}") == 2
    assert "line 2" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "dlm generate" in capsys.readouterr().out
    assert main(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    assert "sampler=" in text
    assert "dream_entropy" in text
    assert "examples:" in text
    assert main(["generate", "--cfg", "job", "sampler=factor"]) == 0
    assert "_target_: samplers.factor" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"dlm {dlm.__version__}"
    assert main(["sing"]) == 2
    assert "known are generate" in capsys.readouterr().err
    assert main(["genrate"]) == 2
    assert "(did you mean generate?)" in capsys.readouterr().err


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(f"prompt={PROMPT}", "max_new_tokens=4") == 0
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_where_an_error_arose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(dlm.SettingsError):
        run("prompt=a", "max_new_tokens=0", "debug=true")
    assert run("prompt=a", "max_new_tokens=0", "debug=false") == 2
    assert capsys.readouterr().err.startswith("dlm: error: ")


def test_an_error_of_the_operating_system_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prompt=a", "max_new_tokens=4", f"output={tmp_path}/nowhere/x") == 2
    err = capsys.readouterr().err
    assert err.startswith("dlm: error: ")
    assert "nowhere" in err
    assert len(err.splitlines()) == 1


def test_an_output_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "answers.jsonl"
    target.write_text("before")

    def fails(self: Path, *_: object) -> None:
        raise OSError(f"no room for {self.name}")

    monkeypatch.setattr(Path, "replace", fails)
    assert run("prompt=a", "max_new_tokens=4", "format=json", f"output={target}") == 2
    assert target.read_text() == "before"


def test_samplers_that_draw_follow_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    heat = "sampler.temperature=20"  # the tiny model is so sure of a copy that mild heat changes nothing
    told = []
    for seed in (1, 1, 2):
        assert run(f"prompt={PROMPT}", "max_new_tokens=24", heat, f"seed={seed}", "format=json") == 0
        told.append(json.loads(capsys.readouterr().out)["tokens"])
    assert told[0] == told[1] != told[2]


def test_the_installed_command_from_another_folder_with_a_part_of_ones_own(tmp_path: Path) -> None:
    """One process for what only a process shows: no terminal, NO_COLOR, the module form, a part found by PYTHONPATH."""
    (tmp_path / "mine.py").write_text("import samplers\n\n\nclass Score(samplers.Margin):\n    pass\n")
    code = "import sys; from dlm.cli import main; sys.exit(main())"
    root = str(Path(dlm.__file__).parent.parent)
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": f".:{root}", "OMP_NUM_THREADS": "1"}
    arguments = [
        "generate",
        f"prompt={PROMPT}",
        "max_new_tokens=8",
        "sampler=parts",
        "sampler.score._target_=mine.Score",
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('["')
    assert "\x1b" not in done.stdout + done.stderr
    assert "a forward" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompt": "a"}\n{"prompt": "caf\xe9"}\n', "line 2 is not UTF-8"),
        (b'{"ids": [true]}', "line 1: token ids"),
        (b'{"ids": []}', "line 1: token ids"),
        (b'{"prompt": "a"}\n{"messages": []}', "line 2: a prompt is a string"),
    ],
)
def test_a_bad_file(content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    assert run(f"prompts_file={tmp_path}/p.jsonl") == 2
    assert message in capsys.readouterr().err


def test_a_byte_order_mark_and_line_separators_inside_strings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_bytes('\ufeff{"prompt": "1\u2028+1="}\n'.encode())
    assert run(f"prompts_file={tmp_path}/p.jsonl", "max_new_tokens=4", "format=json") == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "1\u2028+1="


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=."], "is a folder"),
        (["output=nowhere/x"], "does not exist; make it first"),
        (["system=b"], "chat=true"),
    ],
)
def test_refused_before_any_decoding(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm.models.load", None)  # reaching the model would fail otherwise
    assert run("prompt=a", *arguments) == 2
    assert message in capsys.readouterr().err


def test_finished_answers_survive_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (answer,) = dlm.generate(dlm.load("tiny"), ["1+1="], sampler=samplers.topk(), max_new_tokens=4)

    def broken(*_: object, **__: object) -> Iterator[tuple[int, dlm.Generation]]:
        yield 1, answer
        raise dlm.OutOfMemoryError("prompt 0 alone does not fit into memory")

    monkeypatch.setattr("dlm.api.stream", broken)
    source = tmp_path / "p.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": "1+1="}\n')
    assert run(f"prompts_file={source}", "format=json") == 2
    out, err = capsys.readouterr()
    assert [json.loads(line)["index"] for line in out.splitlines()] == [1]
    assert "1 of 2 answers were done" in err
    assert run(f"prompts_file={source}", f"output={tmp_path}/a.jsonl") == 2
    assert json.loads((tmp_path / "a.jsonl.partial").read_text())["tokens"] == answer.tokens
    assert not (tmp_path / "a.jsonl").exists()


def test_text_that_is_no_unicode_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("prompt=a\udcff") == 2
    assert "not valid Unicode at character 1" in capsys.readouterr().err


@pytest.mark.parametrize(("way", "kind", "name"), [("command line", "file", "cache"), ("python", "folder", "samplers")])
def test_a_module_of_the_user_that_hides_a_package_of_ours_is_named(
    tmp_path: Path, name: str, kind: str, way: str
) -> None:
    theirs = tmp_path / (name if kind == "folder" else f"{name}.py")
    if kind == "folder":
        theirs.mkdir()
    (theirs / "__init__.py" if kind == "folder" else theirs).write_text("topk = none = 1\n", encoding="utf-8")
    how = ["-m", "dlm", "generate", "prompt=1+1="] if way == "command line" else ["-c", "import dlm; dlm.compose()"]
    path = f"{tmp_path}:{Path(dlm.__file__).parent.parent}"
    run = subprocess.run(
        [sys.executable, *how], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    line = run.stderr.splitlines()[-1]
    assert line.endswith(f"{theirs} hides the package {name!r} that is part of dlm: rename it")
    assert run.returncode == (2 if way == "command line" else 1)
    assert len(run.stderr.splitlines()) == 1 or way == "python"


@pytest.mark.slow
def test_a_folder_that_is_no_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    path = str(Path(dlm.__file__).parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", "import dlm; print(dlm.compose().sampler.name)"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert run.stdout == "threshold\n", run.stderr


TRAP = "import pathlib\npathlib.Path(__file__).with_suffix('.sprung').touch()\n"
COMMANDS = {
    "dlm": ["-c", "import sys; from dlm.cli import main; sys.exit(main())"],
    "python -m dlm": ["-m", "dlm"],
}


@pytest.mark.parametrize(
    ("way", "arguments"),
    [
        ("dlm", ["generate", "prompt=1+1=", "max_new_tokens=4"]),
        pytest.param(
            "python -m dlm",
            ["eval", "-m", "task=waiting_line/copy", "task.limit=1", "seeds=[0],[1]", "workers=2"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_nothing_in_the_working_folder_is_run(way: str, arguments: list[str], tmp_path: Path) -> None:
    """Whatever lies there: modules that hide others, plugins, entry points, start files, configurations."""
    modules = [
        "torch",
        "sitecustomize",
        "usercustomize",
        "typing",
        "hydra",
        "joblib",
        "yaml",
        "samplers",
        "cache",
        "conf",
    ]
    traps = [f"{name}.py" for name in modules] + [
        "hydra_plugins/mine/__init__.py",
        "hydra_plugins/other.py",
        "extra.py",
    ]
    for trap in traps:
        (tmp_path / trap).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / trap).write_text(TRAP)
    (tmp_path / "x-1.0.dist-info").mkdir()
    (tmp_path / "x-1.0.dist-info" / "entry_points.txt").write_text("[torch.backends]\nextra = extra:load\n")
    (tmp_path / "x-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1.0\n")
    (tmp_path / ".env").write_text("PYTHONPATH=.\n")
    (tmp_path / "conf" / "sampler").mkdir(parents=True)
    (tmp_path / "conf" / "sampler" / "threshold.yaml").write_text("_target_: extra.Sampler\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(dlm.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    if way == "dlm":  # as the installed script, whose own folder comes first
        environment["PYTHONSAFEPATH"] = "1"
    done = subprocess.run(
        [sys.executable, *COMMANDS[way], *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("*.sprung")) == []


def test_what_nobody_foresaw_is_a_short_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("division by \x1b]0;zero\nand more")

    monkeypatch.setattr("dlm.commands.generate.read_prompts", broken)
    assert run("prompt=it's") == 3
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == r"dlm: fault: ZeroDivisionError: division by \x1b]0;zero"
    assert second == f"dlm {dlm.__version__}, command: dlm generate 'prompt=it'\"'\"'s'"
    assert "debug=true" in third
    with pytest.raises(ZeroDivisionError):
        run("prompt=a", "debug=true")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompt=a", "output=a\0b"], "holds a NUL character"),
        (["prompt=a", "sampler.threshold={a:{b:{c:1}}}"], "sampler.threshold must be a number"),
        (["prompt=a", "sampler.threshold=${nowhere}"], "nowhere"),
        (["prompt=a", "sampler=" + "[" * 3000], "cannot read"),
        (["prompt=a", "model=/a/folder b"], "/a/folder b is not a folder"),
        (["prompt=a", "model.path=/模型", "model=local"], "/模型 is not a folder"),
        (["prompt=a", "model=./nowhere/\x1b[2J"], r"nowhere/\x1b[2J is not a folder"),
        (["prompt=a", "output=/dev/fd/987"], "Bad file descriptor"),
        (["prompt=a", "--config-dir", "/nowhere"], "/nowhere is no folder"),
        (["prompt=a", "--config-dir"], "--config-dir DIR"),
        (["--cfg", "hydra"], "--cfg job"),
        (["--info"], "unknown option"),
    ],
)
def test_odd_arguments_are_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("line", ["[" * 100_000, '{"ids": [' + "7" * 5000 + "]}", '{"ids": [1e400]}', '{"ids": [NaN]}'])
def test_prompts_that_no_parser_likes_are_one_sentence(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text(line)
    assert run(f"prompts_file={tmp_path}/p.jsonl") == 2
    err = capsys.readouterr().err
    assert "line 1" in err
    assert len(err.splitlines()) == 1


def test_answers_that_cannot_be_written_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise dlm.DlmError(f"{path} cannot be written")

    monkeypatch.setattr("dlm.commands.generate.write_whole", full)
    assert run("prompt=1+1=", "max_new_tokens=4", f"output={tmp_path}/a") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["prompt"] == "1+1="
    assert "they are printed as JSON" in err
    assert list(tmp_path.iterdir()) == []


def test_output_to_a_pipe_and_to_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("-", "/dev/stdout", os.devnull):
        assert run("prompt=47+85=", "max_new_tokens=4", f"output={name}") == 0
        assert (len(capfd.readouterr().out) > 1) == (name != os.devnull)
    assert Path(os.devnull).is_char_device()


def test_a_process_that_is_ended_keeps_what_it_has(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, dlm.api\nfrom dlm.cli import main\nwhole = dlm.api.stream\n"
        "def ended(*a, **k):\n    for event in whole(*a, **k):\n        yield event\n"
        "        if isinstance(event, tuple): os.kill(os.getpid(), signal.SIGTERM)\n"
        "dlm.api.stream = ended\nsys.exit(main())"
    )
    (tmp_path / "p.jsonl").write_text('{"prompt": "1+1="}\n' * 3)
    environment = {**os.environ, "PYTHONPATH": str(Path(dlm.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    words = ["generate", "prompts_file=p.jsonl", "batch_size=1", "max_new_tokens=4", "output=a.jsonl"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 143, done.stderr
    assert "1 of 3 answers were done; they are in a.jsonl.partial" in done.stderr
    assert json.loads((tmp_path / "a.jsonl.partial").read_text())["index"] == 0


def test_a_folder_of_ones_own_serves_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf" / "sampler").mkdir(parents=True)
    (tmp_path / "conf" / "grid").mkdir()
    (tmp_path / "conf" / "sampler" / "mine.yaml").write_text(
        "_target_: samplers.threshold\nthreshold: 0.7\nblocks: ${blocks}\n"
    )
    (tmp_path / "conf" / "grid" / "ours.yaml").write_text("product: {sampler: [mine, threshold]}\n")
    own, few = ["--config-dir", str(tmp_path / "conf")], ["task=waiting_line/copy", "task.limit=1", f"out={tmp_path}/r"]
    searched = [f"hydra.searchpath=[file://{tmp_path}/conf]"]
    assert main(["generate", "prompt=1+1=", "max_new_tokens=4", "sampler=mine", *own]) == 0
    assert main(["eval", "sampler=mine", *few, *searched]) == 0
    assert main(["eval", "-m", "sampler=glob(mi*)", *few, *own]) == 0
    assert main(["eval", "grid=ours", *few, *own]) == 0
    assert main(["compare", "samplers=[mine]", "task=waiting_line/copy", "n=1", *own]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "r"), "pictures=false", "format=csv", *own]) == 0
    assert "mine" in capsys.readouterr().out
    assert main(["generate", "prompt=1+1=", "sampler=mine"]) == 2
    assert "unknown sampler 'mine'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        (["--max-new-tokens", "32", "--seed=1", "--sampler", "topk"], ["max_new_tokens=32", "seed=1", "sampler=topk"]),
        (["--sampler.tokens-per-step", "2", "47+85="], ["sampler.tokens_per_step=2", "47+85="]),
        (["--chat", "Why?"], ["chat=true", "Why?"]),
        (["--chat", "false", "--runtime.compile"], ["chat=false", "runtime.compile=true"]),
        (["--prompt", "a=b --seed"], ["prompt=a=b --seed"]),
        (["--seed", "-1", "--cfg", "job", "x=1"], ["seed=-1", "--cfg", "job", "x=1"]),
        (["--seed", "--help"], ["--seed", "--help"]),
    ],
)
def test_settings_are_taken_as_flags(words: list[str], plain: list[str]) -> None:
    assert flags_as_settings(words, "generate") == plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "--sede", "1", "a"], "unknown option '--sede' (did you mean --seed?)"),
        (["generate", "--max-new-token=8", "a"], "(did you mean --max-new-tokens?)"),
        (["generate", "a", "--seed"], "--seed has no value: --seed VALUE, or seed=VALUE"),
        (["eval", "--taks", "arithmetic/addition"], "(did you mean --task?)"),
        (["report", "--formt", "json"], "(did you mean --format?)"),
        (["trace", "shwo", "run.jsonl"], "got 'shwo' (did you mean show?)"),
        (["bench", "samplers", "--smplers", "all"], "(did you mean --samplers?)"),
    ],
)
def test_an_unknown_flag_names_the_nearest(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_flags_decode_as_settings_do(capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for words in (
        ["--sampler", "topk", "--max-new-tokens", "8", "--format", "json"],
        ["sampler=topk", "max_new_tokens=8", "format=json"],
    ):
        assert run("47+85=", *words) == 0
        told.append(json.loads(capsys.readouterr().out)["tokens"])
    assert told[0] == told[1]
