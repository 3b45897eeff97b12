"""The page in a real browser: nothing is fetched, tables sort and filter, light and dark, no overflow on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlm.commands.report import run

from .stores import sweep

pytestmark = pytest.mark.browser
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,900",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    sweep(folder, ("waiting_line/copy", "waiting_line/shuffle", "x/</script><b>"))
    assert run([str(folder)]) == 0
    return folder / "report" / "report.html"


@pytest.fixture
def page(driver: Any, where: Path) -> Any:
    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(f"file://{where}")
    return driver


def column(page: Any, table: str, place: int) -> list[str]:
    code = (
        "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter(r => !r.hidden)"
        ".map(r => r.cells[arguments[1]].textContent)"
    )
    return [str(cell) for cell in page.execute_script(code, table, place)]


def press(page: Any, table: str, place: int) -> None:
    page.execute_script(
        "document.getElementById(arguments[0]).tHead.rows[0].cells[arguments[1]].firstChild.click()", table, place
    )


def test_it_loads_without_errors_and_fetches_nothing(page: Any) -> None:
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert page.execute_script("return document.querySelectorAll('figure svg').length") >= 5
    assert "</script><b>" in page.execute_script("return document.body.textContent")


def test_numbers_sort_as_numbers_from_the_largest(page: Any) -> None:
    press(page, "points-table", 10)  # forwards
    first = [float(cell) for cell in column(page, "points-table", 10)]
    assert first == sorted(first, reverse=True)
    assert first[0] == 8.0
    press(page, "points-table", 10)
    assert [float(cell) for cell in column(page, "points-table", 10)] == sorted(first)
    head = "return document.getElementById('points-table').tHead.rows[0].cells[10].getAttribute('aria-sort')"
    assert page.execute_script(head) == "ascending"
    press(page, "points-table", 0)
    assert column(page, "points-table", 0)[0] == "waiting_line/copy"


def test_undefined_figures_stay_below(page: Any) -> None:
    """Kendall's tau is undefined where all is fixed in few steps; `-` never comes first."""
    page.execute_script("document.getElementById('points-table').tBodies[0].rows[3].cells[17].textContent = '-'")
    for _ in range(2):
        press(page, "points-table", 17)
        assert column(page, "points-table", 17)[-1] == "-"


def test_the_filter_keeps_lines_with_every_word(page: Any) -> None:
    box = page.find_element("css selector", "input[data-filters=points-table]")
    box.send_keys("shuffle topk")
    assert set(column(page, "points-table", 0)) == {"waiting_line/shuffle"}
    assert set(column(page, "points-table", 1)) == {"topk"}


def test_light_and_dark(page: Any) -> None:
    def ground() -> str:
        return str(page.execute_script("return getComputedStyle(document.body).backgroundColor"))

    def ink() -> str:
        code = "return getComputedStyle(document.querySelector('figure svg text')).fill"
        return str(page.execute_script(code))

    before = ground(), ink()
    page.find_element("id", "theme").click()
    assert ground() != before[0]
    assert ink() != before[1]  # the pictures follow
    page.find_element("id", "theme").click()
    assert (ground(), ink()) == before


def test_a_phone_scrolls_tables_not_the_page(page: Any) -> None:
    size = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
