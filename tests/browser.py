"""A headless Chromium for the tests of pages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,900",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE = 390  # pixels across


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A driver with an empty profile, which logs errors and requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def opened(driver: Any, path: Path) -> Any:
    """A page freshly loaded, nothing in the logs from before."""
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(f"file://{path}")
    return driver


def asked_for(driver: Any) -> list[str]:
    """Addresses the page asked for since it was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser's own first tab counts for nothing.
    return [url for url in sent if not url.startswith(("data:", "chrome:"))]


@contextmanager
def phone(driver: Any, density: int = 1) -> Iterator[None]:
    """The page as a narrow screen shows it."""
    size = {"width": PHONE, "height": 844, "deviceScaleFactor": density, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
