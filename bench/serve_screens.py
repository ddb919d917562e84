"""Screenshots of the server's page in a headless Chromium: desktop and phone, light and dark.

    python bench/serve_screens.py URL OUT_STEM [--example 0] [--shown 30]

Asks about an example of the small world, with the slider of the shown size at so many hundredths,
and writes OUT_STEM.png (the episode), OUT_STEM-empty.png, OUT_STEM-hidden.png (as the model first
sees it), OUT_STEM-dark.png and OUT_STEM-phone.png. Prints the milliseconds from the click to the
first words, as the page measured them. Needs what `bench/report_screens.py` needs.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from report_screens import ARGUMENTS, DESKTOP, PHONE, find_chromium

_SLIDE = "([side, at]) => { side.value = at; side.dispatchEvent(new Event('input')); }"


def asked(view: Page, example: int, shown: int) -> None:
    for _ in range(example + 1):
        view.keyboard.press("e")
        view.wait_for_selector(".frame img")
        view.wait_for_timeout(300)
    view.evaluate(_SLIDE, [view.query_selector("#side"), shown])


def answered(view: Page) -> float:
    view.click("#go")
    view.wait_for_selector(".answer, .failed", timeout=120_000)
    view.wait_for_timeout(300)
    return float(view.get_attribute(".talk", "data-first") or "nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("stem", type=Path)
    parser.add_argument("--example", type=int, default=0)
    parser.add_argument("--shown", type=int, default=30)
    args = parser.parse_args()
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit("no Chromium on PATH; install one, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        for kind, size, dark in (
            ("", DESKTOP, False),
            ("-dark", DESKTOP, True),
            ("-phone", PHONE, False),
        ):
            view = browser.new_page(
                viewport={"width": size[0], "height": size[1]},
                device_scale_factor=2 if size[0] < 500 else 1.25,
                color_scheme="dark" if dark else "light",
            )

            def shot(more: str, view: Page = view, kind: str = kind) -> None:
                out = args.stem.with_name(f"{args.stem.name}{kind}{more}.png")
                view.screenshot(path=str(out), full_page=kind == "-phone")
                print(f"wrote {out}")

            view.goto(args.url)
            if not kind:
                shot("-empty")
            asked(view, args.example, args.shown)
            if not kind:
                view.wait_for_timeout(300)
                shot("-hidden")
            print(f"first words after {answered(view):.0f} ms")
            shot("")
            view.close()
        browser.close()


if __name__ == "__main__":
    main()
