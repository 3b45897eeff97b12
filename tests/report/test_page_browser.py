"""The page in a real browser: nothing is fetched, tables sort and filter, light and dark, no overflow on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlm.commands.report import run
from tests.browser import PHONE, asked_for, opened, phone
from tests.report.stores import sweep

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    sweep(folder, ("waiting_line/copy", "waiting_line/shuffle", "x/</script><b>"))
    assert run([str(folder)]) == 0
    return folder / "report" / "report.html"


@pytest.fixture
def page(driver: Any, where: Path) -> Any:
    return opened(driver, where)


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
    assert asked_for(page) == [page.current_url]
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
    with phone(page):
        assert page.execute_script("return document.documentElement.scrollWidth") <= PHONE
