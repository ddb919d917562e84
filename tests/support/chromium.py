"""A real headless Chromium for the tests of pages, where the machine has one."""

import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
MISSING = (
    "NOT TESTED without a Chromium: `apt-get install chromium-headless-shell`, or `playwright "
    "install chromium-headless-shell`, or name one in CHROMIUM"
)


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
    with api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)]
        found += [own if Path(own).is_file() else None]
        chromium = next(filter(None, found), None)
        if chromium is None:
            pytest.skip(MISSING)
        launched = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield launched
        launched.close()
