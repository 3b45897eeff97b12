"""``dlm trace show``: every forward as text, and nothing in a token steers the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from dlm.commands.trace import run
from dlm.errors import SettingsError
from dlm.trace import Trace
from dlm.trace.terminal import Replay, show
from tests.traces.made import by_hand, decoded, saved

STEPS = """Is it </script><b>?
forward 0 of 4: nothing decided yet
⟦░░░⟧░░░
forward 1 of 4: block 0-2, 2 committed, 7 positions fed, everything refreshed
⟦ it░⏎⟧░░░
forward 2 of 4: block 0-2, 2 committed, 1 taken back, 3 positions fed
⟦▒</script><b>?⟧░░░
forward 3 of 4: block 0-2, 1 committed, 3 positions fed
⟦ so·[31m</script><b>?⟧░░░
forward 4 of 4: block 3-5, 2 committed, the rest filled, 1 of 3 drafts accepted, 28 positions fed, everything refreshed
 so·[31m</script><b>?⟦?··⟧
"""


def test_steps_go_down_the_page_where_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", str(saved(tmp_path / "t.jsonl", by_hand()))]) == 0
    assert capsys.readouterr().out == STEPS


def test_one_step_of_a_row_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, trace = saved(tmp_path / "a=b.jsonl"), decoded()[1]
    last = len(trace.steps)
    assert run(["show", str(path), "index=2", f"step={last}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = "".join(trace.pieces[t] for t in list(trace.replay())[-1][trace.start :])
    assert lines[0] == "47+85="
    assert lines[1].startswith(f"forward {last} of {last}: block 16-23, ")
    assert lines[2].translate({ord(c): None for c in "⟦⟧·"}) == text.replace("<|endoftext|>", "")


def test_new_tokens_and_those_taken_back_stand_out() -> None:
    line = Replay(by_hand()).canvas(2)
    styles = {line.plain[span.start : span.end]: str(span.style) for span in line.spans}
    assert (styles["</script><b>"], styles["?"], styles["▒"]) == ("bold green", "bold green", "red")


def test_a_terminal_shows_every_forward_in_place() -> None:
    out = io.StringIO()
    show(by_hand(), Console(file=out, force_terminal=True, width=60, height=20), speed=1e6, animate=True)
    told = out.getvalue()
    assert all(f"forward {number} of 4" in told for number in range(5))
    assert "\x1b[31m</script>" not in told  # the token's own escape never gets through
    assert "so·" in told


def test_ids_where_there_is_no_text() -> None:
    trace = by_hand()
    trace.pieces = {}
    assert Replay(trace).canvas(1).plain == "⟦2 ░4 ⟧░░░"
    assert Replay(Trace([1, 9], 1, 9)).canvas(0).plain == "░"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of show, html, plot first"),
        (["play", "FILE"], "one of show, html, plot first"),
        (["show"], "needs one file"),
        (["show", "FILE", "file=FILE"], "needs one file"),
        (["show", "missing.jsonl"], "holds no traces"),
        (["show", "FILE", "index=3"], "index=3: .* has 3 rows"),
        (["show", "FILE", "index=-1"], "index must be a whole number of at least 0"),
        (["show", "FILE", "step=99"], "step=99: the row has 4 forwards"),
        (["show", "FILE", "speed=0"], "speed must be above 0"),
        (["html", "FILE", "limit=0"], "limit must be a whole number of at least 1"),
        (["html", "FILE", "out=/nowhere/x.html"], "name a file in a folder that exists"),
        (["html", "FILE", "colour=red"], "colour"),
        (["plot", "FILE", "out=FILE"], "is a file: name a folder"),
    ],
)
def test_bad_requests_are_answered_in_one_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    path = str(saved(tmp_path / "t.jsonl"))
    with pytest.raises(SettingsError, match=message):
        run([argument.replace("FILE", path) for argument in arguments])
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]


def test_help_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert "dlm trace html FILE" in capsys.readouterr().out
    assert run(["--cfg", "job"]) == 0
    assert "limit: 50" in capsys.readouterr().out
