"""A browser without a window, for tests of pages as people see them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
SIZE = (1500, 1500)  # of the window [pixel]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    # It is to ask nobody but the page that is tested.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
    f"--window-size={SIZE[0]},{SIZE[1]}",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A selenium driver of the system's Chromium, new for each file; skips where there is none."""
    pytest.importorskip("selenium")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("needs chromium and chromedriver")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        # By name, or selenium looks for drivers on the network.
        driver = Chrome(options=options, service=ChromeService(executable_path=DRIVER))
        try:
            driver.set_page_load_timeout(120)
            driver.set_script_timeout(120)
            yield driver
        finally:
            driver.quit()


def wait_until(browser: Any, script: str, *arguments: Any, seconds: float = 120) -> Any:
    """Waits until a script in the page gives something true; that."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.2).until(
        lambda page: page.execute_script(script, *arguments), f"never true in the page: {script}"
    )


def said(browser: Any) -> list[str]:
    """What went wrong in the page since this was last asked."""
    return [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]


def screenshot(browser: Any, path: Path, height: int | None = None) -> Path:
    """The page as a picture, of another height [pixel] than the window where that is given."""
    if height is not None:
        browser.set_window_size(SIZE[0], height)
    try:
        browser.save_screenshot(str(path))
    finally:
        if height is not None:
            browser.set_window_size(*SIZE)
    return path
