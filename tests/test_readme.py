"""What the README says works: its Python runs, its command lines that need no download run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dlm.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    for line in block.splitlines()
    if language == "" and line.startswith("dlm generate")
]


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for language, block in BLOCKS if language == "python"]
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("line", [c for c in COMMANDS if "model=" not in c and "prompts_file" not in c])
def test_the_command_lines_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
    assert capsys.readouterr().out.strip()


def test_the_commands_with_files_compose() -> None:
    from dlm.configuration import compose

    for line in COMMANDS:
        words = [w for w in shlex.split(line)[2:] if not w.startswith(("prompt", "--", "format"))]
        words = [w.replace("model.path=DIR", "model.path=somewhere") for w in words]
        assert compose(words).sampler
