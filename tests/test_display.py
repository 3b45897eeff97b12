"""The live canvas and the card: what is drawn, and that nothing a model writes can steer the terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

import dlm
import samplers
from dlm.api import Generation, StreamStep
from dlm.display import CanvasView, card, one_line, watch
from dlm.engine.result import Counts
from dlm.trace.pieces import MASKED, fold

MASK, END = 0, 1
BYTES = {i: bytes([i]) for i in range(2, 256)}  # a tokenizer with one token a byte


def model(tokenizer: bool = True) -> Any:
    def decode(ids: Any) -> str:
        return b"".join(BYTES[i] for i in ids).decode("utf-8", errors="replace")

    return SimpleNamespace(
        description=SimpleNamespace(mask_id=MASK, eos_ids=(END,)),
        tokenizer=object() if tokenizer else None,
        decode=decode,
    )


def step(canvas: list[int], new: list[int], index: int = 0, number: int = 0) -> StreamStep:
    committed = {position: canvas[position] for position in new}
    return StreamStep(index, number, committed, canvas, canvas, "", "", MASK not in canvas)


def generation(tokens: list[int], useful: int) -> Generation:
    counts = Counts(
        forwards=4, token_forwards=40, tokens=useful, tokens_per_forward=useful / 2, canvas_tokens_per_forward=1.5,
        seconds=2.0, seconds_refresh=0.25, seconds_step=1.5, seconds_sampler=0.25, tokens_per_second=useful / 2,
    )  # fmt: skip
    return Generation("", tokens, list(range(len(tokens))), "filled", counts, prompt_tokens=[7, 8, 9])


def ids(text: str) -> list[int]:
    return list(text.encode())


def styles(line: Text) -> list[tuple[str, str]]:
    return [(line.plain[span.start : span.end], str(span.style)) for span in line.spans]


def test_masked_new_and_committed_look_different() -> None:
    view = CanvasView(model())
    view.update(step([*ids("ab"), MASK, *ids("c"), END], new=[1]))
    line = view.lines[0]
    assert line.plain == f"ab{MASKED}c·"
    assert (MASKED, "bright_black") in styles(line)
    assert ("b", "bold green") in styles(line)
    assert not any("a" in text or "c" in text for text, _ in styles(line))


def test_a_committed_token_is_not_coloured_by_its_label() -> None:
    console = terminal()
    list(watch(model(), iter([(0, generation(ids("ab"), 2))]), console))
    assert "\x1b[90m  0 \x1b[0mab" in written(console)


def test_a_character_of_several_tokens_appears_when_it_is_whole() -> None:
    view = CanvasView(model())
    euro = ids("€")
    assert view.line([*euro, *ids("x")]).plain == "€x"
    assert styles(view.line([*euro, *ids("x")], new=[2])) == [("€", "bold green")]
    assert view.line([euro[0], MASK, euro[2]]).plain == f"\ufffd{MASKED}\ufffd"


def test_what_a_model_writes_never_reaches_the_terminal_as_a_control_code() -> None:
    assert CanvasView(model()).line(ids("a\n\tb\x1b[2Jc\x7f\r")).plain == "a⏎ b·[2Jc··"


def test_a_model_without_a_tokenizer_shows_ids() -> None:
    assert CanvasView(model(tokenizer=False)).line([5, MASK, END]).plain == f"5 {MASKED}1 "


def test_lines_are_cut_at_cells_not_at_words() -> None:
    assert [line.plain for line in fold(Text("ab cd"), 4)] == ["ab c", "d"]
    assert [line.plain for line in fold(Text("日本語"), 5)] == ["日本", "語"]
    assert [line.plain for line in fold(Text(""), 5)] == [""]


@pytest.mark.parametrize("height", [1, 3, 8, 50])
def test_a_tall_canvas_shows_where_it_is_being_filled(height: int) -> None:
    view = CanvasView(model())
    for index in range(3):
        view.update(step([*ids("a" * 100), *[MASK] * 100], new=[99], index=index))
    shown = view.fitting(width=24, height=height)
    assert len(shown) <= height
    assert any(MASKED in line.plain for line in shown)
    assert all(line.cell_len <= 24 for line in shown)


def terminal(**settings: Any) -> Console:
    environment = {"TERM": "xterm-256color", **settings}
    size = {"width": 40, "height": 10}
    return Console(file=io.StringIO(), force_terminal=True, color_system="standard", _environ=environment, **size)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def events(rows: int = 3) -> Iterator[StreamStep | tuple[int, Generation]]:
    for index in range(rows):
        for new in range(4):
            canvas = [ids("abcd")[i] if i <= new else MASK for i in range(4)]
            yield step(canvas, [new], index, new)
        yield index, generation(ids("abcd"), 3)


def test_a_terminal_keeps_each_finished_row_once() -> None:
    console = terminal()
    finished = list(watch(model(), events(30), console))
    assert [index for index, _ in finished] == list(range(30))
    out = written(console)
    assert all(out.count(f"{index:>3} \x1b[0mabcd") == 1 for index in range(30))
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # the cursor comes back


def test_no_color_leaves_colour_out() -> None:
    console = terminal(NO_COLOR="1")
    list(watch(model(), events(), console))
    assert not any(f"\x1b[{code}m" in written(console) for code in ("90", "32", "1;32"))


@pytest.mark.parametrize(
    "settings", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}]
)
def test_plain_lines_where_nothing_can_be_redrawn(settings: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=20, **settings)
    list(watch(model(), events(1), console))
    assert written(console).splitlines() == [
        f"[0] step 0 +1 a{MASKED * 3}",
        f"[0] step 1 +1 ab{MASKED * 2}",
        f"[0] step 2 +1 abc{MASKED}",
        "[0] step 3 +1 abcd",
    ]


def test_the_card_adds_up() -> None:
    console = Console(file=io.StringIO(), width=60)
    console.print(card([generation(ids("abcd"), 3), generation(ids("abcd"), 1)]))
    rows = [line.strip("│ ").rsplit(None, 1) for line in written(console).splitlines()[1:-1]]
    assert {name.strip(): value for name, value in rows} == {
        "prompt tokens": "6",
        "positions filled": "8",
        "answer tokens": "4",
        "trimmed at the end": "4",
        "forwards": "8",
        "until the last answer token": "4",
        "tokens per forward": "1.00",
        "counting filler": "1.50",
        "seconds": "4.00",
        "refresh": "0.50",
        "step": "3.00",
        "sampler": "0.50",
        "answer tokens per second": "1.0",
    }


def test_one_line_says_the_same() -> None:
    told = one_line([generation(ids("abcd"), 3)])
    assert told == "1 answer, 3 tokens in 2 of 4 forwards (1.50 a forward), 2.00 s (0.25 s outside the model)"
    assert one_line([generation(ids("a"), 1)] * 2).startswith("2 answers, 2 tokens")


def test_the_packaged_model_on_a_terminal_and_off_it() -> None:
    tiny, sampler = dlm.load("tiny"), samplers.topk(tokens_per_step=4)
    (answer,) = dlm.generate(tiny, ["47+85="], sampler=sampler, max_new_tokens=16)
    for console in (terminal(), Console(file=io.StringIO(), width=200)):
        stream = dlm.stream(tiny, ["47+85="], sampler=sampler, max_new_tokens=16)
        ((index, shown),) = list(watch(tiny, stream, console))
        assert index == 0
        assert shown.tokens == answer.tokens
        assert CanvasView(tiny).line(answer.tokens).plain[:6] in written(console)


def test_off_a_terminal_there_is_a_line_per_row_and_forward() -> None:
    tiny, console = dlm.load("tiny"), Console(file=io.StringIO(), force_terminal=False, width=100)
    prompts = ['Copy the list: ["Anna", "Bob", "Cleo"]', "47+85="]
    answers = dict(watch(tiny, dlm.stream(tiny, prompts, sampler=samplers.topk(), max_new_tokens=16), console))
    lines = [line for line in written(console).splitlines() if line.startswith("[0] step")]
    assert len(lines) == answers[0].counts.forwards
    assert MASKED in lines[0]
    assert answers[0].text in lines[-1]
    assert MASKED not in lines[-1]


def test_new_tokens_are_green_on_a_terminal_with_colour() -> None:
    console = terminal()
    list(watch(model(), events(1), console))
    assert "\x1b[1;32ma\x1b[0m" in written(console)


def test_no_answers_are_a_card_too() -> None:
    assert one_line([]).startswith("0 answers")
    card([])
