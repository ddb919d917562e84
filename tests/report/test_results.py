"""What an evaluation came to, on its report's page: the terminal's tables, first of all."""

import json

import pytest

from lfpc_jax.cli import compare, evaluate, report
from lfpc_jax.evaluation import tables
from support import rigged, runs, small
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


@pytest.mark.seconds
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


@pytest.fixture(scope="module")
def compared(folder):
    """The same evaluation as two arms, on a page with a run of one arm's name."""
    out = folder.parent / "compared"
    words = [str(out), "--arm", "warm", str(folder), "--arm", "looks", str(folder)]
    assert compare.main([*words, "--change", "drop", "warm", "looks"]) == 0
    run = runs.write(folder.parent / "looks-0", {})
    about = ["--about", "warm: before <b>training</b>."]
    page = folder.parent / "report.html"
    assert report.main([str(out), str(run), *about, "--out", str(page)]) == 0
    return page


@pytest.mark.seconds
def test_a_comparison_comes_first_with_the_numbers_of_its_file(browser, compared):
    [budget] = json.loads((compared.parent / "compared/comparison.json").read_text()).values()
    with opened(browser, compared) as view:
        assert view.locator('#tabs a[data-tab="results"][aria-current]').count() == 1
        assert view.locator(".about").inner_text() == "warm: before <b>training</b>."
        shown = {
            panel.get_attribute("data-measure") for panel in view.locator(".bars .panel").all()
        }
        assert shown == {name for name, value in budget["arms"]["looks"].items() if value}
        for name in shown:
            panel = view.locator(f'.panel[data-measure="{name}"]')
            assert panel.locator("text.axis").text_content() == "%"
            assert panel.locator("text.arm").all_text_contents() == ["warm", "looks"]
            found = budget["arms"]["looks"][name]["estimate"]
            numbers = [f"{100 * found[key]:.1f}" for key in ("value", "low", "high")]
            told = panel.locator("text.told").nth(1).text_content().replace("−", "-")
            assert told == "{} [{}, {}]".format(*numbers)
        rows = [row.split("\t") for row in view.locator(".sheet tr").all_inner_texts()]
        assert ["warm", "100.0 [67.6, 100.0]"] in [row[:2] for row in rows]
        [change] = [row for row in rows if row[0] == "drop, warm to looks"]
        assert change[1].startswith("+0.0 [")
        fills = [view.locator(".bars rect").nth(at).evaluate("one => getComputedStyle(one).fill")
                 for at in (0, 1)]  # fmt: skip
        assert fills == ["rgb(139, 144, 153)", "rgb(59, 111, 182)"]  # no run's, the run's colour


def test_pictures_and_tables_round_alike_under_one_heading(browser, compared, tmp_path):
    """4.25 stood as 4.2 in the table and as 4.3 beside its bar, under the same heading twice."""
    found = json.loads((compared.parent / "compared/comparison.json").read_text())
    [budget] = found.values()
    for value in filter(None, budget["arms"]["looks"].values()):
        value["estimate"] |= {"value": 0.0425, "low": 0.0125, "high": 0.6875}
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared/comparison.json").write_text(json.dumps(found))
    assert report.main([str(tmp_path / "compared"), "--out", str(tmp_path / "page.html")]) == 0
    with opened(browser, tmp_path / "page.html") as view:
        rows = [row.split("\t") for row in view.locator(".sheet tr").all_inner_texts()]
        [cells] = {tuple(row[1:]) for row in rows if row[0] == "looks"}
        assert set(cells) == {"4.2 [1.2, 68.8]"}
        bars = [panel.locator("text.told").nth(1) for panel in view.locator(".bars .panel").all()]
        assert {bar.text_content() for bar in bars} == set(cells)
        assert view.locator(".compared h2").count() == 1
        headings = view.locator(".compared h2, .compared h3").all_inner_texts()
        assert sum("visual tokens of the image: %" in text for text in headings) == 1


def test_a_damaged_comparison_is_said_and_the_rest_is_shown(folder, tmp_path, capsys):
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared/comparison.json").write_text('{"set-4": {"arms": {"a": 3}}}')
    out = tmp_path / "r.html"
    assert report.main([str(tmp_path / "compared"), str(folder), "--out", str(out)]) == 0
    assert "comparison.json: is damaged" in capsys.readouterr().err
    assert '"compared":[]' in out.read_text()


def test_a_table_explains_only_the_rows_that_it_has(folder):
    found = json.loads((folder / "results.json").read_text())
    *_, episodes, crops_matter = tables.sheets(found, {})
    tests = [row[1] for part in crops_matter.parts for row in part]
    assert ("needed:" in crops_matter.meaning) == any("needed" in test for test in tests)
    assert "missed:" not in crops_matter.meaning
    assert "max_turns" not in episodes.meaning
    for budget in found["benchmarks"]["set"]["budgets"].values():
        budget["conditions"]["direct"]["measures"]["end/max_turns"] = 0.62
    [episodes] = [sheet for sheet in tables.sheets(found, {}) if sheet.title == "Episodes"]
    assert "max_turns: the turns were used up by calls; in direct" in episodes.meaning


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
