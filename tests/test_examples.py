"""The scripts of examples/ run as they stand, and show what they say."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
# What each prints, in this order.
PRINTED = {
    "decode_and_compare": r"one token a forward: 32 forwards.*whatever is sure .0.9.: [4-8] forwards",
    "policy_gradient": r"step 0: mean reward 0\.\d\d, \d+ states replayed",
    "serve_and_call": r'\["Cleo", "Bob", "Anna"\] in \d forwards.*forward 1 .*·.*forward 3 .*,132',
    "sweep_and_report": r"waiting_line/copy +sampler=topk .*waiting_line/shuffle +sampler=threshold .* to ",
    "write_a_probe": r"shuffle +without.*shuffle +one token.*addition +two tokens +1\.00",
    "write_a_sampler": r"holds +a row is alone\n.*near the best 0\.5 .*threshold +[01]\.\d\d",
}


def test_every_example_is_here_and_short() -> None:
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    assert set(scripts) == set(PRINTED)
    for name, text in scripts.items():
        assert len(text.splitlines()) <= 60
        assert f"python examples/{name}.py" in (ast.get_docstring(ast.parse(text)) or "")


@pytest.mark.parametrize("name", PRINTED)
def test_the_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(FOLDER / f"{name}.py")
    monkeypatch.setattr("sys.argv", [file, *(["1"] if name == "policy_gradient" else [])])
    runpy.run_path(file, run_name="__main__")
    shown = capfd.readouterr().out
    assert re.search(PRINTED[name], shown, re.DOTALL), shown
