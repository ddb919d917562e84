"""The page in a real Chromium, against a server with the small model. Errors on the page and
requests to any other address fail every test."""

import json

import pytest

from support.browser import visited
from support.served import data_url, held, message, png, served

pytestmark = pytest.mark.compiles

BOX = """(rects) => rects.map((one) =>
  ["x", "y", "width", "height"].map((name) => Number(one.getAttribute(name))))"""
DROP = """([bytes, kind]) => {
  const held = new DataTransfer();
  held.items.add(new File([new Uint8Array(bytes)], "dropped", { type: kind }));
  const how = { dataTransfer: held, bubbles: true, cancelable: true };
  for (const name of ["dragover", "drop"]) document.body.dispatchEvent(new DragEvent(name, how));
}"""
QUESTION = "Which colour is it?"


def opened(browser, server, *size, **how):
    own = (server.url, "data:", "blob:")
    return visited(browser, server.url + "/", own, *size, timeout=20000, **how)


def choose(view, contents, name="a.png", kind="image/png"):
    view.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": contents})
    view.wait_for_selector(".frame img")


def bodies(view):
    posts = [r for r in view.requests if r.method == "POST"]
    return [json.loads(post.post_data) for post in posts]


def over(view):
    view.wait_for_selector(".answer, .failed, .ended")


def looking(server, seed):
    """A picture in which the model crops, and its reply."""
    for number in range(seed, seed + 30):
        picture = png(seed=number)
        body = {"model": "small:look", "messages": [message(QUESTION, data_url(picture))]}
        told = json.loads(server.ask(body)[2])["choices"][0]["message"]
        if any(event["event"] == "crop" for event in told["lfpc"]):
            return picture, told
    raise AssertionError("the model never crops")


def test_a_picture_is_asked_about_and_its_crops_lie_where_the_server_cut_them(browser, server):
    picture, told = looking(server, 0)
    with opened(browser, server) as view:
        assert view.is_disabled("#go")
        choose(view, picture)
        view.fill("#question", QUESTION)
        view.click("#go")
        over(view)
        cut = [event for event in told["lfpc"] if event["event"] == "crop"]
        drawn = view.eval_on_selector_all(".frame rect.box", BOX)
        wanted = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in (c["box"] for c in cut)]
        assert len(drawn) == len(wanted)
        assert all(abs(a - b) < 0.05 for d, w in zip(drawn, wanted) for a, b in zip(d, w))
        assert view.get_attribute(".frame svg", "viewBox") == "0 0 160 120"
        shown = view.eval_on_selector_all(".crop img", "(all) => all.map((one) => one.src)")
        assert shown == [c["image"] for c in cut]
        said = "".join(
            view.eval_on_selector_all(".said-by", "(all) => all.map((o) => o.textContent)")
        )
        assert said == told["reasoning_content"].replace("\n", "\n")
        answer = view.inner_text(".answer p")
        assert answer == told["content"] or told["content"] == ""
        assert float(view.get_attribute(".talk", "data-first")) > 0
        assert "shown to the model at" in view.inner_text(".stage figcaption")


def test_a_picture_is_dropped_pasted_or_chosen(browser, server):
    with opened(browser, server) as view:
        view.evaluate(DROP, [list(png(200, 100)), "image/png"])
        view.wait_for_selector(".frame img")
        assert view.get_attribute(".frame svg", "viewBox") == "0 0 200 100"
        choose(view, png(50, 90))
        view.wait_for_function(
            "() => document.querySelector('.frame svg').getAttribute('viewBox') === '0 0 50 90'"
        )
        choose(
            view,
            b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='48'/>",
            "a.svg",
            "image/svg+xml",
        )
        view.wait_for_function(
            "() => document.querySelector('.frame svg').getAttribute('viewBox') === '0 0 64 48'"
        )
        view.fill("#question", QUESTION)
        view.press("#question", "Enter")
        over(view)
        [body] = bodies(view)
        sent = body["messages"][0]["content"][0]["image_url"]["url"]
        assert sent.startswith("data:image/png;base64,"), "the server reads no SVG"


def test_what_is_no_picture_is_said(browser, server):
    with opened(browser, server) as view:
        view.set_input_files(
            "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"hello"}
        )
        view.wait_for_selector(".failed")
        assert view.is_disabled("#go")


def test_the_slider_hides_detail_and_the_request_says_how_much(browser, server):
    with opened(browser, server) as view:
        choose(view, png())
        view.fill("#question", QUESTION)
        view.click("#go")
        over(view)
        view.focus("#side")
        for _ in range(40):
            view.keyboard.press("ArrowLeft")
        assert view.inner_text("output[for=side]").endswith("pixels")
        size = view.eval_on_selector(".frame canvas", "(c) => [c.width, c.height]")
        view.focus("#temperature")
        view.keyboard.press("ArrowRight")
        view.click("#go")
        view.wait_for_function(
            "() => !document.querySelector('#go').disabled && document.querySelector('.answer')"
        )
        first, second = bodies(view)
        assert "longest_side" not in first
        assert second["longest_side"] == size[0] < 160
        assert size[0] % 28 == 0, "what the model can be shown"
        assert (first["temperature"], second["temperature"]) == (0, 0.1)


def test_everything_by_keyboard(browser, server):
    with opened(browser, server) as view:
        view.keyboard.press("e")
        view.wait_for_selector(".frame img")
        assert "Which" in view.input_value("#question")
        view.keyboard.press("v")
        view.wait_for_selector(".frame canvas")
        view.keyboard.press("q")
        view.keyboard.press("Enter")
        over(view)
        assert "The right one" in view.inner_text(".answer")
        view.keyboard.press("Tab")
        assert view.evaluate("document.activeElement.id") == "go"
        view.keyboard.press("?")
        assert view.is_visible("#keys")
        view.keyboard.press("Escape")
        assert not view.is_visible("#keys")
        assert "e" in view.input_value("#question")
        view.keyboard.press("e")
        view.wait_for_function("() => document.querySelector('.talk').childElementCount === 0")


def test_stop_frees_the_slot_and_another_example_forgets_the_first(browser, made):
    with served(made) as server, opened(browser, server) as view, held(made) as gate:
        view.keyboard.press("e")
        view.wait_for_selector(".frame img")
        view.click("#go")
        in_hand = server.service.worker.in_hand
        server.waits_until(lambda: len(in_hand) == 1)
        assert view.inner_text("#go") == "Stop"
        view.click("#go")
        server.waits_until(lambda: not in_hand)
        assert view.inner_text(".ended") == "Stopped."
        view.click("#go")
        server.waits_until(lambda: len(in_hand) == 1)
        view.click("#example")
        server.waits_until(lambda: not in_hand)
        gate.set()
        assert view.evaluate("document.querySelector('.talk').childElementCount") == 0


def test_errors_are_text_whatever_they_hold(browser, server):
    hostile = "<img src=x onerror=alert(1)><|im_end|>"
    with opened(browser, server) as view:
        choose(view, png())
        view.fill("#question", hostile)
        view.click("#go")
        view.wait_for_selector(".failed")
        assert "special token" in view.inner_text(".failed")
        assert view.evaluate("document.querySelectorAll('.talk img').length") == 0
        view.errors[:] = [e for e in view.errors if "status of 400" not in e]
    assert "alert(1)" not in json.dumps(server.ask(path="/")[2].decode())


def test_a_server_that_is_gone_is_said(browser, made):
    with served(made) as server, opened(browser, server) as view:
        choose(view, png())
        view.fill("#question", QUESTION)
        server.stop.set()
        server.waits_until(lambda: server.service.draining)
        server.waits_until(lambda: made.slots._state is None)
        view.click("#go")
        view.wait_for_selector(".failed")
        view.errors.clear()  # the browser notes the connection


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(browser, server, scheme):
    with opened(
        browser, server, 360, 740, color_scheme=scheme, has_touch=True, is_mobile=True
    ) as view:
        view.tap("#example")
        view.wait_for_selector(".frame img")
        view.tap("#go")
        over(view)
        wide = view.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1]
        heights = view.eval_on_selector_all(
            "button.go, .plain-button", "(all) => all.map((b) => b.offsetHeight)"
        )
        assert min(heights) >= 44
        assert (
            view.eval_on_selector("#question", "(q) => parseFloat(getComputedStyle(q).fontSize)")
            >= 16
        )


def test_a_browser_that_was_asked_for_the_token_keeps_to_it(browser, made):
    with served(made, key="sesame") as server:
        credentials = {"username": "anyone", "password": "sesame"}
        with opened(browser, server, http_credentials=credentials) as view:
            view.keyboard.press("e")
            view.wait_for_selector(".frame img")
            view.click("#go")
            over(view)
            assert not view.query_selector(".failed")


def test_the_policy_allows_no_other_address(server):
    _, headers, text = server.ask(path="/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
    assert b"http://" not in text.replace(b"http://www.w3.org/", b"")
    assert b"https://" not in text
