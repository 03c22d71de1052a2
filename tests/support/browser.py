"""Chromium without network access, controlled by WebDriver."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 300  # timeout, long enough for a busy machine


@contextmanager
def chromium(profile: Path, width: int = 1200, height: int = 1000) -> Iterator[webdriver.Chrome]:
    """Run a browser that can only reach the loopback interface, until the context ends."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    assert all(programs.values()), f"Debian's chromium and chromium-driver are needed: {programs}"
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--disable-dev-shm-usage", "--disable-sync", "--no-first-run", "--force-color-profile=srgb",
                     "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={profile}",
                     f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(programs["chromedriver"]))
    driver.set_page_load_timeout(SECONDS)
    driver.set_script_timeout(SECONDS)
    try:
        yield driver
    finally:
        driver.quit()


def until(driver: webdriver.Chrome, script: str, *arguments: Any) -> Any:
    """Wait until a JavaScript expression is truthy, and return its value.

    Raises:
        TimeoutException: it is not within SECONDS.
    """
    wait = WebDriverWait(driver, SECONDS, poll_frequency=0.1, ignored_exceptions=())
    return wait.until(lambda one: one.execute_script(f"return {script}", *arguments), script)


def complaints(driver: webdriver.Chrome) -> list[str]:
    """Return the errors in the browser's console since the last call, including violations of the content policy."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
