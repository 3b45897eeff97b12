"""The player in a real browser: it loads without a sound, and shows at every forward what the replay says."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlm.commands.trace import run
from dlm.trace import Trace
from tests.browser import PHONE, asked_for, opened, phone
from tests.traces.made import EVIL, MASK, by_hand, decoded, saved

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    assert run(["html", str(saved(folder / "run.jsonl"))]) == 0
    return folder / "run.html"


@pytest.fixture
def page(driver: Any, where: Path) -> Any:
    return opened(driver, where)


def js(page: Any, code: str, *arguments: Any) -> Any:
    return page.execute_script(code, *arguments)


def scrub(page: Any, step: int) -> None:
    js(
        page,
        "const s = document.getElementById('scrub'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
        step,
    )


def text(page: Any, name: str) -> str:
    return str(js(page, "return document.getElementById(arguments[0]).textContent", name))


def chips(page: Any) -> list[tuple[str, set[str]]]:
    """Text and classes of every position."""
    code = "return [...document.querySelectorAll('#canvas .chip')].map(c => [c.textContent, c.className])"
    return [(shown, set(classes.split())) for shown, classes in js(page, code)]


def key(page: Any, name: str) -> None:
    js(page, "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0], bubbles: true}))", name)


def wait(until: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def shown_as(trace: Trace, token: int) -> str:
    """What a chip says of a token, in these traces."""
    if token == trace.mask_id:
        return ""
    piece = trace.pieces[token]
    if piece.startswith("<|"):
        return "∎"
    return piece.replace("\n", "⏎").replace(" ", "\u00a0").replace("\x1b", "·")


def test_it_loads_without_errors_and_asks_for_nothing(page: Any) -> None:
    assert page.get_log("browser") == []
    assert asked_for(page) == [page.current_url]
    assert js(page, "return [document.documentElement.lang, document.querySelectorAll('b').length]") == ["en", 3]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_every_forward_shows_the_canvas_of_the_replay(page: Any, row: int) -> None:
    trace = [by_hand(), *decoded()][row]
    js(
        page,
        "const s = document.getElementById('row'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
        row,
    )
    assert text(page, "prompt") == trace.about["prompt"]
    for number, canvas in enumerate(trace.replay()):
        scrub(page, number)
        found = chips(page)
        assert [shown for shown, _ in found] == [shown_as(trace, token) for token in canvas[trace.start :]]
        assert ["open" in classes for _, classes in found] == [t == trace.mask_id for t in canvas[trace.start :]]
        assert text(page, "step").startswith(f"Forward {number} of {len(trace.steps)}")
        if number:
            step = trace.steps[number - 1]
            stay = sorted(p for p in step.positions if canvas[p] != trace.mask_id)
            assert [i + trace.start for i, (_, c) in enumerate(found) if "new" in c] == stay
            assert [i + trace.start for i, (_, c) in enumerate(found) if "active" in c] == list(range(*step.block))
            assert [i + trace.start for i, (_, c) in enumerate(found) if "back" in c] == step.remasked
            assert step.cache is not None
            spans = step.cache.recomputed or []
            fed = [p for span in spans for p in range(*span) if p >= trace.start]
            assert [i + trace.start for i, (_, c) in enumerate(found) if "fed" in c] == fed
    assert page.get_log("browser") == []


def test_tokens_are_text_whatever_they_say(page: Any) -> None:
    scrub(page, 4)
    assert chips(page)[1] == (EVIL, {"chip", "done"})
    assert EVIL in text(page, "prompt")
    assert js(page, "return document.querySelectorAll('#canvas b, #prompt b').length") == 0


def test_marks_of_blocks_refreshes_drafts_and_what_was_taken_back(page: Any) -> None:
    count = "return document.querySelectorAll(arguments[0]).length"
    marks = {name: js(page, count, f"#time .{name}") for name in ("commit", "refresh", "draft", "edge")}
    assert marks == {"commit": 4, "refresh": 2, "draft": 1, "edge": 1}
    assert js(page, count, "#time rect.taken:not(.dot)") == 1
    assert js(page, count, "#canvas .border") == 1
    assert text(page, "marks") == "2 blocks2 cache refreshes1 of 3 drafts accepted1 taken back"
    scrub(page, 2)
    assert "1 taken back" in text(page, "step")
    assert {"rewritten", "new"} <= chips(page)[2][1]
    scrub(page, 4)
    assert "1 of 3 drafts accepted" in text(page, "step")
    assert "cache refreshed" in text(page, "step")
    assert "filled" in chips(page)[5][1]


def test_play_goes_on_to_the_end_and_stops(page: Any) -> None:
    js(page, "const s = document.getElementById('speed'); s.value = 30; s.dispatchEvent(new Event('change'))")
    label = "return document.getElementById('play').getAttribute('aria-label')"
    page.find_element("id", "play").click()
    assert js(page, label) == "Pause"
    wait(lambda: text(page, "step").startswith("Forward 4 of 4"))
    wait(lambda: js(page, label) == "Play")
    key(page, " ")
    wait(lambda: not text(page, "step").startswith("Forward 4 of 4"))


def test_keys(page: Any) -> None:
    for name, start in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 4),
        ("ArrowRight", 4),
        ("Home", 0),
    ):
        key(page, name)
        assert text(page, "step").startswith(f"Forward {start} of 4")
    key(page, "ArrowDown")
    key(page, "ArrowDown")
    assert text(page, "where") == "Position 1"
    assert js(page, "return document.activeElement.dataset.position") == "2"
    key(page, "Escape")
    assert js(page, "return document.getElementById('inspector').hidden")
    key(page, "n")
    assert js(page, "return document.getElementById('row').value") == "1"


def test_hovering_shows_candidates_and_confidence_over_time(page: Any) -> None:
    from selenium.webdriver import ActionChains

    scrub(page, 1)
    assert js(page, "return document.getElementById('inspector').hidden")
    chip = page.find_elements("css selector", "#canvas .chip")[0]
    ActionChains(page).move_to_element(chip).perform()
    assert text(page, "where") == "Position 0"
    assert text(page, "what") == "“ it”, committed in forward 1 at 90.0 %"
    lines = js(page, "return [...document.querySelectorAll('#candidates li')].map(l => [l.textContent, l.className])")
    assert lines == [["\u00a0it90.0 %", "taken"], [f"{EVIL}6.0 %", ""]]
    scrub(page, 2)
    assert text(page, "what") == "masked"
    scrub(page, 3)
    assert text(page, "candidates-of") == "Candidates in forward 3"
    code = "return ['commit', 'away'].map(c => document.querySelectorAll(`#curve .${c}`).length)"
    assert js(page, code) == [2, 1]
    chip.click()  # a tap or a click holds it
    ActionChains(page).move_to_element(page.find_elements("css selector", "#canvas .chip")[2]).perform()
    assert text(page, "where") == "Position 0"


def test_everything_has_a_name_and_fits_a_phone(page: Any) -> None:
    with phone(page, density=2):
        page.refresh()
        assert js(page, "return document.documentElement.scrollWidth") <= PHONE
        nameless = """return [...document.querySelectorAll('button, select, input, [role=img]')].filter(e => !(
            e.getAttribute('aria-label') || e.closest('label') || e.textContent.trim())).map(e => e.outerHTML)"""
        scrub(page, 3)
        page.find_elements("css selector", "#canvas .chip")[1].click()
        assert js(page, nameless) == []
        box = """const b = document.getElementById('inspector').getBoundingClientRect();
            return [b.top, b.bottom, innerHeight]"""
        top, bottom, height = js(page, box)
        assert 0 < top < bottom <= height


def test_light_and_dark(page: Any) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    before = js(page, paper)
    page.find_element("id", "theme").click()
    assert js(page, paper) != before


def test_masks_are_no_text() -> None:
    assert shown_as(by_hand(), MASK) == ""
