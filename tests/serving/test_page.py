"""The page of `dlm serve` in a real browser: canvas, slider, side by side, filling again; no text becomes markup."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import asked_for

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='taken'\">"
KEY = "a-key-of-this-server"


def served(*settings: str) -> Iterator[str]:
    """The address of a server of its own."""
    command = [sys.executable, "-m", "dlm", "serve", "port=0", "grace=1", *settings]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as run:
        assert run.stdout is not None
        said = re.search(r"answers at (http://\S+)", run.stdout.readline())
        assert said is not None
        try:
            yield said[1]
        finally:
            run.terminate()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    yield from served("most_new_tokens=128")


@pytest.fixture
def page(driver: Any, server: str) -> Any:
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(server)
    wait(lambda: not js(driver, "return document.getElementById('send').disabled"))
    choose(driver, "max_tokens", "48")
    return driver


def js(page: Any, code: str, *arguments: Any) -> Any:
    return page.execute_script(code, *arguments)


def wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.03)


def choose(page: Any, what: str, value: str) -> None:
    """Give a field a value: by its id, or by a selector that finds it."""
    found = what if any(sign in what for sign in " [.#") else f"#{what}"
    code = (
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; for (const n of ['input', 'change'])"
    )
    js(page, code + " e.dispatchEvent(new Event(n, {bubbles: true}))", found, value)


def click(page: Any, what: str) -> None:
    js(page, "document.querySelector(arguments[0]).click()", what)


def send(page: Any, text: str, kind: str = "plain", ended: bool = True) -> None:
    click(page, f"[name=kind][value={kind}]")
    choose(page, "prompt", text)
    click(page, "#send")
    if ended:
        wait(lambda: not js(page, "return document.getElementById('send').disabled"))


def texts(page: Any, what: str) -> list[str]:
    found = js(page, "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", what)
    return [str(text) for text in found]


def classes(page: Any, run: int = 0) -> list[set[str]]:
    code = "return [...document.querySelectorAll('.run')[arguments[0]].querySelectorAll('.chip')].map(c => c.className)"
    return [set(each.split()) for each in js(page, code, run)]


def steps_of(page: Any) -> int:
    return int(js(page, "return document.querySelector('.run input[type=range]').max"))


def scrub(page: Any, to: int) -> None:
    choose(page, ".run input[type=range]", str(to))


def test_it_answers_and_shows_the_canvas(page: Any, server: str) -> None:
    send(page, "47+85=")
    assert texts(page, ".run .text") == ["7+5=12,4+8+1=13,132"]
    chips = texts(page, ".run .chip")
    assert len(chips) == 48
    assert "".join(chips[:19]) == "7+5=12,4+8+1=13,132"
    assert set(chips[19:]) == {"∎"}
    assert all("done" in each for each in classes(page))
    assert re.fullmatch(r"\d forwards?, \d\.\d{3} s, [\d.]+ tokens a forward", texts(page, ".run .step")[0])
    assert texts(page, ".cell.edge") == ["∎"]  # the second block of 32
    assert {url.removeprefix(server) for url in asked_for(page)} == {"", "v1/settings", "v1/completions"}
    assert page.get_log("browser") == []


def test_the_slider_goes_back_to_the_first_step(page: Any) -> None:
    choose(page, "#first select", "topk")
    send(page, "47+85=")
    assert steps_of(page) == 48
    scrub(page, 0)
    assert all("open" in each for each in classes(page))
    scrub(page, 1)
    shown = classes(page)
    assert sum("new" in each for each in shown) == sum("done" in each for each in shown) == 1
    assert sum("active" in each for each in shown) == 31
    assert any(texts(page, ".chip.open.active"))  # what the model would put there
    assert texts(page, ".run .step") == ["forward 1, 1 of 48 filled"]
    scrub(page, 48)
    assert all("done" in each for each in classes(page))
    choose(page, "paint", "sure")
    assert js(page, "return document.body.className") == "paint-sure"


def test_two_samplers_side_by_side(page: Any) -> None:
    click(page, "#beside")
    choose(page, "#second select", "topk")
    choose(page, "#second [data-key=tokens_per_step]", "2")
    send(page, "47+85=")
    assert texts(page, ".run h2") == ["threshold", "topk"]
    assert texts(page, ".run .text") == ["7+5=12,4+8+1=13,132"] * 2
    forwards = [int(text.split()[0]) for text in texts(page, ".run .step")]
    assert forwards[0] < forwards[1] == 24
    left = js(page, "return [...document.querySelectorAll('.run')].map(r => r.getBoundingClientRect().left)")
    assert left[0] < left[1]


def test_what_is_taken_back_is_marked(page: Any) -> None:
    choose(page, "#first select", "saber")
    send(page, "47+85=")
    seen = []
    for step in range(1, steps_of(page) + 1):
        scrub(page, step)
        seen += [each for each in classes(page) if "back" in each]
    assert seen
    assert all("open" in each for each in seen)


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_masked_tokens_are_filled_again(page: Any, kind: str) -> None:
    send(page, "47+85=", kind)
    before, steps = (
        texts(page, ".run .chip"),
        int(js(page, "return document.querySelector('.run input[type=range]').max")),
    )
    assert js(page, "return document.querySelector('.again').disabled")
    for place in (16, 18):
        js(page, "document.querySelectorAll('.run .chip')[arguments[0]].click()", place)
    assert [at for at, each in enumerate(classes(page)) if "chosen" in each] == [16, 18]
    click(page, ".again")
    wait(lambda: not js(page, "return document.getElementById('send').disabled"))
    assert texts(page, ".run .error") == [""]
    assert texts(page, ".run .chip") == before
    assert texts(page, ".run .text") == ["7+5=12,4+8+1=13,132"]
    scrub(page, steps + 1)
    assert [at for at, each in enumerate(classes(page)) if "open" in each] == [16, 18]
    assert steps_of(page) > steps + 1


def test_a_chat_goes_on(page: Any) -> None:
    for text in ("47+85=", "12+30="):
        send(page, text, "chat")
    assert texts(page, ".said") == ["47+85=", "12+30="]
    assert len(texts(page, ".run .text")) == 2
    click(page, "#new")
    assert texts(page, ".turn") == []


def test_nothing_that_is_typed_becomes_markup(page: Any) -> None:
    for kind in ("plain", "chat"):
        send(page, EVIL, kind)
    assert texts(page, ".said") == [EVIL, EVIL]
    assert js(page, "return document.querySelectorAll('img').length") == 0
    assert page.title == "dlm: tiny"


def test_an_error_is_one_line_and_the_prompt_comes_back(page: Any) -> None:
    choose(page, "#first select", "threshold")
    choose(page, "#first [data-key=threshold]", "7")
    send(page, "47+85=")
    [said] = [text for text in texts(page, ".run .error") if text]
    assert "threshold" in said
    assert "\n" not in said
    assert texts(page, ".run .text") == [""]
    assert js(page, "return document.getElementById('prompt').value") == "47+85="


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("streamed({choices: [{text: '13'}]})", "The stream broke off: the answer is not whole."),
        ("streamed({error: {message: 'memory is full'}})", "memory is full"),
        ('new Response(\'{"error": {"message": "try again later"}}\', {status: 429})', "try again later"),
        ("new Response('<h1>no</h1>', {status: 502})", "The server answered 502"),
        ("Promise.reject(new TypeError('gone'))", "The server cannot be reached: is it still running?"),
    ],
)
def test_what_goes_wrong_on_the_way_is_an_error(page: Any, answer: str, said: str) -> None:
    streamed = (
        "const streamed = (chunk) => new Response(new ReadableStream({start(c) {"
        " c.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(chunk)}\\n\\n`)); c.close(); }}));"
    )
    js(page, f"{streamed} window.fetch = async () => {answer}")
    send(page, "47+85=")
    assert [text.strip() for text in texts(page, ".run .error")] == [said]
    assert js(page, "return document.querySelector('.again').offsetParent") is None


def test_stop_ends_an_answer(page: Any) -> None:
    choose(page, "#first select", "topk")
    choose(page, "max_tokens", "128")
    send(page, "47+85=", ended=False)
    wait(lambda: steps_of(page) > 2)
    click(page, "#stop")
    wait(lambda: not js(page, "return document.getElementById('send').disabled"))
    assert texts(page, ".run .error") == ["Stopped: the answer is not whole."]
    assert 2 < steps_of(page) < 128
    send(page, "47+85=")
    assert texts(page, ".run .text")[1] == "7+5=12,4+8+1=13,132"


def test_it_fits_a_phone(page: Any) -> None:
    click(page, "#beside")
    send(page, "47+85=")
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for settings in (True, False):
            js(page, "document.querySelectorAll('details').forEach(d => { d.open = arguments[0]; })", settings)
            assert js(page, "return document.documentElement.scrollWidth") == 360
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_is_enough(page: Any) -> None:
    choose(page, "prompt", "47+85=")
    pressed = (
        "new KeyboardEvent('keydown', {key: arguments[0], ctrlKey: arguments[1], bubbles: true, cancelable: true})"
    )
    js(page, f"document.getElementById('prompt').dispatchEvent({pressed})", "Enter", True)
    wait(lambda: texts(page, ".run .text") != [""] and not js(page, "return document.getElementById('send').disabled"))
    js(
        page,
        f"const c = document.querySelector('.run .chip'); c.focus(); c.dispatchEvent({pressed})",
        "ArrowRight",
        False,
    )
    assert js(page, "return document.activeElement.title.startsWith('position 1')")
    unnamed = js(
        page,
        "return [...document.querySelectorAll('input, select, textarea, button')].filter(e => !e.labels?.length"
        " && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)",
    )
    assert unnamed == []


def test_a_key_is_asked_for_and_kept_by_the_tab(driver: Any, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    for address in served(f"api_keys={file}"):
        driver.get(address)
        wait(lambda: texts(driver, "#error") == ["This server asks for an API key."])
        for key, works in (("wrong", False), (KEY, True)):
            choose(driver, "key-text", key)
            click(driver, "#key button")
            told = [""] if works else ["The server does not know this API key."]
            wait(lambda told=told: texts(driver, "#error") == told)  # type: ignore[misc]
        wait(lambda: not js(driver, "return document.getElementById('send').disabled"))
        choose(driver, "max_tokens", "48")
        send(driver, "47+85=")
        assert texts(driver, ".run .text") == ["7+5=12,4+8+1=13,132"]
        assert js(driver, "return [localStorage.length, location.href.includes(arguments[0])]", KEY) == [0, False]
        js(driver, "sessionStorage.clear()")
