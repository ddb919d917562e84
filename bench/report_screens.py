"""Screenshots of a report's page in a headless Chromium, for desktop and phone, light and dark.

    python bench/report_screens.py PAGE OUT_STEM [--episode 0] [--question 0]

Writes OUT_STEM.png (an episode), OUT_STEM-compare.png, OUT_STEM-phone.png, OUT_STEM-list.png (on a
phone), OUT_STEM-dark.png, and of what the page has OUT_STEM-results.png and OUT_STEM-curves.png.
Needs `playwright` (a Python package) and any Chromium on the machine, found by name on PATH or
named by the environment variable CHROMIUM.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
DESKTOP, PHONE = (1440, 900), (390, 844)
_TO_THE_LIST = "document.querySelector('.step button:nth-child(2)').click()"


def find_chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


def shot(
    browser: Browser,
    page: Path,
    place: str,
    out: Path,
    *,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
    keys: Sequence[str] = (),
    script: str = "",
) -> None:
    """Presses `keys` and runs `script` before it takes the picture."""
    width, height = size
    view = browser.new_page(
        viewport={"width": width, "height": height},
        device_scale_factor=2 if width < 500 else 1.25,
        color_scheme="dark" if dark else "light",
    )
    view.goto(f"{page.resolve().as_uri()}#{place}")
    for key in keys:
        view.keyboard.press(key)
    if script:
        view.evaluate(script)
    _settle(view)
    view.screenshot(path=str(out))
    view.close()
    print(f"wrote {out}")


def _settle(view: Page) -> None:
    view.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => 0)))")
    view.wait_for_timeout(150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("stem", type=Path)
    parser.add_argument("--episode", type=int, default=0)
    parser.add_argument("--question", type=int, default=0, help="to compare, counted from 0")
    args = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("no Chromium on PATH; install one, or name it in CHROMIUM")
    stem, page, chosen = args.stem, args.page, f"episodes/{args.episode}"

    def out(kind: str) -> Path:
        return stem.with_name(f"{stem.name}{kind}.png")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        shot(browser, page, chosen, out(""))
        text = page.read_text()
        for tab, needed in (("results", '"sheets":[{'), ("curves", '"figures":[{')):
            if needed in text:
                shot(browser, page, tab, out(f"-{tab}"))
        shot(browser, page, "compare", out("-compare"), keys=("j",) * args.question)
        shot(browser, page, chosen, out("-phone"), size=PHONE)
        shot(browser, page, chosen, out("-list"), size=PHONE, script=_TO_THE_LIST)
        shot(browser, page, chosen, out("-dark"), dark=True, keys=("o",))
        browser.close()


if __name__ == "__main__":
    main()
