"""What an evaluation came to, on its report's page: the terminal's tables, first of all."""

import json

import pytest

from lfpc_jax.cli import evaluate, report
from support import rigged, small
from support.browser import opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight questions with the tool, without, and with noise in place of crops."""
    place = tmp_path_factory.mktemp("evaluation")
    data = rigged.write_set(place / "data", 8)
    engine = rigged.RiggedEngine(rigged.reads_the_crop, small.dialogue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "Engines", rigged.engines(engine))
        assert evaluate.main(rigged.command(place / "out", data)) == 0
    return place / "out"


@pytest.fixture(scope="module")
def page(folder):
    assert report.main([str(folder)]) == 0
    return folder / "report.html"


def test_the_results_come_first_and_are_the_terminals(browser, page):
    with opened(browser, page) as view:
        tabs = view.locator("#tabs a").all_inner_texts()
        assert [tab.split()[0] for tab in tabs] == ["Results", "Episodes", "Compare", "Notes"]
        assert view.locator('#tabs a[data-tab="results"][aria-current]').count() == 1
        titles = view.locator(".sheet h3").all_inner_texts()
        assert [title.split(",")[0] for title in titles] == [
            "Accuracy", "Crops", "Episodes", "Do crops matter? Accuracy"
        ]  # fmt: skip
        rows = [row.split("\t") for row in view.locator(".sheet tr").all_inner_texts()]
        assert ["set", "1024", "tool", "overall", "100.0 [67.6, 100.0]", "8 of 8"] in rows
        [noise] = [row for row in rows if row[1:2] == ["noise"]]
        assert noise[2:4] == ["8", "100.0"]
        view.keyboard.press("2")
        view.locator(".browser").wait_for()


def test_on_a_phone_only_the_tables_themselves_may_scroll(browser, page):
    with opened(browser, page, "results", 360, 740) as view:
        assert view.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: "{",
        lambda found: "[]",
        lambda found: json.dumps(found | {"benchmarks": 3}),
        lambda found: json.dumps({name: {} for name in found}).replace("{}", "{'x': 1}"),
        lambda found: json.dumps(found).replace('"value"', '"worth"'),
    ],
)
def test_damaged_results_are_said_and_the_episodes_are_shown(folder, tmp_path, capsys, damage):
    file = folder / "results.json"
    whole = file.read_text()
    file.write_text(damage(json.loads(whole)))
    try:
        assert report.main([str(folder), "--out", str(tmp_path / "r.html")]) == 0
    finally:
        file.write_text(whole)
    printed = capsys.readouterr()
    assert "results.json: results cannot be shown" in printed.err
    assert "wrote" in printed.out
    assert '"sheets":[]' in (tmp_path / "r.html").read_text()
