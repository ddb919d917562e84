"""The page in a real browser: it loads from disk without any network, filters, and draws each box
where the picture has what the box is around."""

import io
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from lfpc_jax.cli import report as command
from lfpc_jax.cli.parsers.report import parser
from lfpc_jax.trajectory import Group
from support import runs
from support.browser import opened

PART, LATER = "validation-000001", "validation-000002"
RED = (0xE6, 0x19, 0x4B)  # the colour of a first turn's box


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two runs of the same questions; the second's texts and lines are damaged here and there."""
    folder = tmp_path_factory.mktemp("page")
    groups = runs.groups()
    first = runs.write(folder / "first", {PART: groups[:1], LATER: groups})
    lines = [*runs.metric_lines(0.5), {"step": "x"}, {"step": 9, "kind": "train", "own/thing": 3}]
    second = runs.write(folder / "second", {LATER: groups}, lines=lines)
    with (second / "trajectories" / f"{LATER}.jsonl").open("a") as out:
        out.write('{"version": 1, "record"\n')
    out = folder / "report.html"
    assert command.main([str(first), str(second), "--out", str(out)]) == 0
    return out


def index(view):
    return json.loads(view.locator("script#index").inner_text())


def number_of(view, **wanted):
    """The place of the first episode that has these values."""
    lines = index(view)["episodes"]
    return next(at for at, line in enumerate(lines) if all(line[k] == v for k, v in wanted.items()))


def go(view, place):
    view.evaluate("place => { location.hash = '#' + place }", place)
    view.locator(f'.episode[data-episode="{place.split("/")[1]}"]').wait_for()
    view.evaluate("Promise.all([...document.images].map(image => image.decode()))")


def pixels(view, locator):
    shot = view.locator(locator).first.screenshot()
    return np.asarray(PIL.Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def extent(mask):
    """Left, top, right and bottom of what is true, along the edges of pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


VIEWPORTS = [(1280, 900, 1), (1900, 1300, 1), (390, 844, 2), (900, 420, 1)]


@pytest.mark.seconds
@pytest.mark.parametrize(("width", "height", "scale"), VIEWPORTS)
@pytest.mark.parametrize("name", list(runs.SIZES))
@pytest.mark.parametrize("seen", ["original", "shown"])
def test_boxes_lie_on_the_picture_within_a_pixel(browser, page, name, seen, width, height, scale):
    """The pictures have a green rectangle where the crop was cut. Its edges, found among the
    screenshot's pixels without boxes, and those of the drawn box are the same."""
    with opened(browser, page, "notes", width, height, device_scale_factor=scale) as view:
        record = list(runs.SIZES).index(name)
        go(view, f"episodes/{number_of(view, record=record, crops=1, part=LATER)}")
        if seen == "shown":
            view.keyboard.press("o")
        view.keyboard.press("t")
        view.keyboard.press("b")
        view.evaluate("Promise.all([...document.images].map(image => image.decode()))")
        clean = pixels(view, ".frame")
        view.keyboard.press("b")
        view.add_style_tag(content=".frame b { display: none }")
        drawn = pixels(view, ".frame")
        size, shown, box = runs.SIZES[name]
        frame = view.locator(".frame").bounding_box()
        rect = view.locator(".frame rect.box").bounding_box()
    # by the document, which counts the stroke: where the record says, in CSS pixels
    edges = np.array([rect["x"], rect["y"], rect["x"] + rect["width"], rect["y"] + rect["height"]])
    edges += np.array([1, 1, -1, -1]) - np.array([frame["x"], frame["y"]] * 2)
    across = np.array([frame["width"] / size[0], frame["height"] / size[1]] * 2)
    np.testing.assert_allclose(edges, np.array(box) * across, atol=0.1)
    # by the pixels: around what the picture shows; the stroke is 2 CSS pixels wide, half outside
    green = extent((clean[..., 1] > 128) & (clean[..., 0] < 128))
    stroke = extent((np.abs(drawn - RED) <= 40).all(-1)) / scale + np.array([1, 1, -1, -1])
    blur = 0.5 * frame["width"] / min(shown[0], 1024) if seen == "shown" else 0
    np.testing.assert_allclose(stroke, green / scale, atol=1 + (blur if name != "wide" else 0))
    if name == "small" and width == 1900:
        assert frame["width"] > shown[0]
    if name == "large" and width == 390:
        assert frame["width"] < shown[0]


def test_it_loads_and_every_view_is_there(browser, page):
    with opened(browser, page) as view:
        assert view.title() == "first, second – lfpc_jax report"
        assert view.locator(".panel").count() > 3
        panel = view.locator('.panel[data-name="reward/total"]')
        assert panel.locator("path").count() == 2
        assert panel.locator(".now span").all_inner_texts() == ["4", "4.5"]  # at step 4
        assert view.locator('.panel[data-name="own/thing"]').count() == 1
        for name in ("episodes", "compare", "notes"):
            view.locator(f'#tabs a[data-tab="{name}"]').click()
            view.locator(f'#tabs a[data-tab="{name}"][aria-current]').wait_for()


def test_every_panel_has_labelled_axes_and_says_what_it_means(browser, page):
    with opened(browser, page, "curves") as view:
        for panel in view.locator(".panel").all():
            labels = panel.locator("text.axis").all_text_contents()
            assert labels[0] == "step"
            assert labels[1]
        panel = view.locator('.panel[data-name="reward/total"]')
        assert panel.locator("text.axis").nth(1).text_content() == "reward an episode"
        panel.locator("summary").click()
        said = panel.locator("dl").inner_text().split("\n")
        assert said[said.index("healthy") + 1].startswith("rises, fast at first")
        own = view.locator('.panel[data-name="own/thing"]')
        assert "not a metric of this project" in own.locator("dl").text_content()


@pytest.mark.seconds
def test_constant_zeros_are_said_and_a_curve_stops_where_it_has_no_value(browser, tmp_path):
    rows = [{"reward/masked": 0, "fault/bad_json": 0.5}, {"reward/masked": 0, "crop/rate": 1.0},
            {"reward/masked": 0, "fault/bad_json": 0.25, "crop/rate": 0.5}]  # fmt: skip
    lines = [{"step": at, "kind": "train", **row} for at, row in enumerate(rows)]
    folder = runs.write(tmp_path / "run", {PART: runs.groups()}, lines=lines)
    assert command.main([str(folder)]) == 0
    with opened(browser, folder / "report.html", "curves") as view:
        drawn = {panel.get_attribute("data-name") for panel in view.locator(".panel").all()}
        assert drawn == {"crop/rate", "fault/bad_json"}
        assert view.locator(".steady").all_inner_texts() == [
            "Zero at every step: Episodes without a reward."
        ]
        panel = view.locator('.panel[data-name="fault/bad_json"]')
        assert panel.locator("path").get_attribute("d").count("L") == 0
        assert panel.locator("circle").count() == 2
        assert view.locator(".bar .toggle").count() == 0  # no legend of a single run


def test_a_curve_is_where_its_numbers_are_and_tells_them(browser, page):
    """reward/total of the first run is 0, 1, 2, 3, 4: a straight line through the middle."""
    with opened(browser, page, "curves") as view:
        panel = view.locator('.panel[data-name="reward/total"]')
        path = panel.locator("path").first.get_attribute("d")
        points = np.array([p.split(" ") for p in path[1:].split("L")], float)
        assert len(points) == 5
        steps = np.diff(points, axis=0)
        np.testing.assert_allclose(steps, np.tile(steps[0], (4, 1)), atol=0.02)
        assert steps[0][0] > 0 > steps[0][1]
        box = panel.locator("svg").bounding_box()
        view.mouse.move(box["x"] + points[3][0], box["y"] + 60)
        said = view.locator("#tip").inner_text().split("\n")
        assert said == ["Reward, step 3", "first", "3", "second", "3.5"]


def count(view):
    return int(view.locator(".count [role=status]").inner_text().split()[0])


@pytest.mark.seconds
def test_an_answer_that_is_partly_right_has_its_mark_and_its_references(browser, tmp_path):
    groups = runs.groups()
    references = ("a door", "<b>door", "a door")
    graded = replace(groups[0].record, references=references, metric="vqa")
    rewards = tuple(one | {"accuracy": score} for one, score in zip(groups[0].rewards, (0.3, 1.0)))
    groups[0] = replace(groups[0], record=graded, rewards=rewards)
    folder, out = runs.write(tmp_path / "run", {PART: groups}), tmp_path / "report.html"
    assert command.main([str(folder), "--out", str(out)]) == 0
    with opened(browser, out, "episodes") as view:
        view.select_option("[data-filter=verdict]", "partly")
        assert count(view) == 1
        go(view, f"episodes/{number_of(view, right=0.3)}")
        assert view.locator(".verdict .mark").first.inner_text() == "◐"
        facts = view.locator("dl.verdict").inner_text()
        assert "References, by vqa" in facts
        assert "a door ×2, <b>door" in facts


def test_filters(browser, page):
    with opened(browser, page, "episodes") as view:
        pick = lambda key, value: view.select_option(f"[data-filter={key}]", value)  # noqa: E731
        assert count(view) == 14  # (1 + 3 + 3) groups of two
        pick("verdict", "right")
        assert count(view) == 7
        pick("part", PART)
        assert count(view) == 1
        pick("part", "")
        pick("tool", "none")
        assert count(view) == 0
        assert "No episode fits" in view.locator(".detail").inner_text()
        pick("verdict", "wrong")
        assert count(view) == 7
        pick("run", "1")
        assert count(view) == 3
        view.fill("[data-filter=text]", "IN LARGE")
        assert count(view) == 1
        assert "What is in large?" in view.locator(".episode h2").inner_text()
        view.get_by_role("button", name="Reset").click()
        assert count(view) == 14
        view.locator("[data-filter=low]").fill("0.5")
        assert count(view) == 7  # IoU 1 with a crop, 0 without
        pick("order", "reward, lowest")
        view.locator("[data-filter=low]").fill("0")
        view.locator(".row").first.filter(has_text="✗").wait_for()  # once they are drawn anew
        rows = view.locator(".row").all_inner_texts()
        assert ["✗" in row for row in rows] == [True] * 7 + [False] * 7


def test_the_keyboard_steps(browser, page):
    with opened(browser, page, "episodes/0") as view:
        at = lambda: int(view.locator(".episode").get_attribute("data-episode"))  # noqa: E731
        assert at() == 0
        view.keyboard.press("j")
        view.keyboard.press("ArrowDown")
        assert at() == 2
        view.keyboard.press("k")
        assert at() == 1
        view.keyboard.press("[")
        assert at() == 0
        view.keyboard.press("ArrowUp")
        assert at() == 0  # the first
        view.keyboard.press("/")
        view.keyboard.type("jj")
        assert view.locator("[data-filter=text]").input_value() == "jj"
        view.keyboard.press("Escape")
        view.keyboard.press("1")
        view.locator(".curves").wait_for()
        view.keyboard.press("?")
        assert view.locator("dialog[open]").count() == 1


def test_hostile_texts_stay_texts(browser, page):
    with opened(browser, page, "notes") as view:
        go(view, f"episodes/{number_of(view, record=2, crops=0)}")
        assert view.title() == "first, second – lfpc_jax report"
        text = view.locator(".episode h2").inner_text()
        assert "</script><script>document.title" in text
        assert "U+202E" in text
        assert "\u202e" not in text
        said = view.locator(".sampled .said-by").inner_text()
        assert "onerror=alert(1)" in said
        assert view.locator("img[src=x]").count() == 0
        wide = view.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0


def test_tokens_tell_their_probability(browser, page):
    with opened(browser, page, "notes") as view:
        go(view, f"episodes/{number_of(view, record=0, crops=1)}")
        token = view.locator(".sampled .tok").first
        assert "look".startswith(token.inner_text())
        token.hover()
        said = view.locator("#tip").inner_text()
        assert "77.9 %" in said  # exp(-0.25)
        assert "−0.2500" in said
        assert "in the policy itself −0.5000" in said
        assert view.locator(".given .tok").count() == 0
        assert "Tools and rules." in view.locator(".given details").text_content()
        rewards = view.locator(".rewards").inner_text().split()
        assert rewards[:4] == ["Total", "2", "Accuracy", "1"]


def test_two_runs_side_by_side(browser, page):
    with opened(browser, page, "compare") as view:
        sides = view.locator(".pair > section")
        assert sides.count() == 2
        chosen = [side.locator(".source select").input_value() for side in sides.all()]
        assert chosen == [f"0|{LATER}", f"1|{LATER}"]
        assert "1 of 3 that both have" in view.locator(".compare .meta").inner_text()
        assert [box["y"] for box in (s.bounding_box() for s in sides.all())].count(
            sides.first.bounding_box()["y"]
        ) == 2
        view.keyboard.press("j")
        assert "What is in large?" in view.locator(".compare h2").inner_text()
        lines = index(view)["episodes"]
        shown = [int(e.get_attribute("data-episode")) for e in view.locator(".episode").all()]
        assert [(lines[n]["run"], lines[n]["record"]) for n in shown] == [(0, 1), (1, 1)]
        sides.first.locator(".source select").select_option(f"0|{PART}")
        assert "1 of 1" in view.locator(".compare .meta").inner_text()
        sides.last.locator(".group a").last.click()
        shown = [int(e.get_attribute("data-episode")) for e in view.locator(".episode").all()]
        assert [lines[n]["rollout"] for n in shown] == [0, 1]


def test_what_was_left_out_is_on_the_page(browser, page):
    with opened(browser, page, "notes") as view:
        problems = view.locator(".problems li").all_inner_texts()
        assert len(problems) == 2
        assert "metrics.jsonl, line 7" in problems[0]
        assert f"{LATER}.jsonl, line 4" in problems[1]


@pytest.mark.parametrize("place", ["curves", "episodes/0", "compare", "notes"])
def test_nothing_is_wider_than_a_phone(browser, page, place):
    with opened(browser, page, place, 360, 740) as view:
        assert view.evaluate("document.documentElement.scrollWidth") <= 360
        if place == "episodes/0":
            view.get_by_role("button", name="Next").click()
            assert view.locator(".episode").get_attribute("data-episode") == "1"
            view.locator(".step button").nth(1).click()
            assert view.locator(".row").count() == 14
            view.locator(".row").nth(5).click()
            assert view.locator(".episode").get_attribute("data-episode") == "5"


def test_five_tabs_stand_on_one_line_of_a_phone(browser, page):
    """A page with results has one more than this one."""
    add = "document.createElement('a'), {textContent: 'Results'}"
    places = "[...document.querySelectorAll('#tabs a')].map((tab) => tab.getBoundingClientRect())"
    with opened(browser, page, "curves", 360, 740) as view:
        view.evaluate(f"document.getElementById('tabs').prepend(Object.assign({add}))")
        tabs = view.evaluate(f"{places}.map((at) => [at.top, at.right, at.height])")
    assert len(tabs) == 5
    assert all(top >= 0 and right <= 360 and height < 36 for top, right, height in tabs), tabs


def test_light_and_dark(browser, page):
    grounds = []
    for scheme in ("light", "dark"):
        with opened(browser, page, "episodes", color_scheme=scheme) as view:
            grounds.append(
                view.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            )
    assert grounds == ["rgb(251, 250, 248)", "rgb(20, 21, 24)"]


@pytest.mark.long
def test_five_hundred_episodes_are_quick(browser, tmp_path):
    size, shown, green = runs.SIZES["small"]
    groups = []
    for number in range(250):
        of = runs.record(f"r{number}", size, green)
        pair = (
            runs.trajectory(of, size, shown, green),
            runs.trajectory(of, size, shown, rollout=1, answer="?"),
        )
        rewards = runs.rewards(True, 1.0), runs.rewards(False, 0.0)
        groups.append(Group(of, pair, rewards=rewards))
    folder = runs.write(tmp_path / "run", {PART: groups})
    assert command.main([str(folder)]) == 0
    with opened(browser, folder / "report.html", "episodes") as view:
        assert count(view) == 500
        ready = view.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        filtered = view.evaluate(
            """() => { const start = performance.now(), one = document.querySelector(
                 "[data-filter=verdict]"); one.value = "wrong";
                 one.dispatchEvent(new Event("change")); document.body.offsetHeight;
                 return performance.now() - start; }"""
        )
        assert count(view) == 250
        stepped = view.evaluate(
            """() => { const start = performance.now(); for (let i = 0; i < 50; i++)
                 document.body.dispatchEvent(
                   new KeyboardEvent("keydown", {key: "j", bubbles: true}));
                 document.body.offsetHeight; return (performance.now() - start) / 50; }"""
        )
    # An order of magnitude of room, since tests share their cores.
    assert ready < 10_000
    assert filtered < 2_000
    assert stepped < 300
    print(f"ready {ready:.0f} ms, filtered {filtered:.0f} ms, stepped {stepped:.1f} ms")


def comes(view, what):
    """Waits until it is so; the page's policy forbids what playwright's own waiting evaluates."""
    from playwright.sync_api import Error

    for _ in range(100):
        with suppress(Error):  # asked while the page is loaded anew
            if view.evaluate(what):
                return
        view.wait_for_timeout(50)
    raise AssertionError(what)


@pytest.mark.seconds
def test_a_page_that_is_watched_shows_the_newest_by_itself(tmp_path, browser):
    folder = runs.write(tmp_path / "run", {PART: runs.groups()[:1]})
    page = tmp_path / "report.html"

    def written(refresh):
        args = parser().parse_args([str(folder), "--out", str(page)])
        command._write(args, args.runs, refresh)

    written(refresh=1)
    with opened(browser, page, "curves", height=300) as view:
        assert "every 1 s" in view.locator("#name").inner_text()
        view.evaluate("window.scrollTo(0, 120)")
        with (folder / "metrics.jsonl").open("a") as lines:
            lines.write(json.dumps({"step": 9, "kind": "train", "reward/total": 1.0}) + "\n")
        view.evaluate("location.hash = '#episodes/0'; window.before = true")
        written(refresh=1)
        view.wait_for_timeout(1500)
        assert view.evaluate("window.before")  # an episode is being read
        view.evaluate("location.hash = '#curves'")
        view.evaluate("window.scrollTo(0, 120)")
        comes(view, "window.before === undefined")
        steps = [curve["steps"][-1] for curve in index(view)["runs"][0]["curves"]]
        assert max(steps) == 9
        comes(view, "window.scrollY === 120")
        written(refresh=0)
        comes(view, "!document.querySelector('#name').innerText.includes('every')")
