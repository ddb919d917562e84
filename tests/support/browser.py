"""A page in a real browser, where an error on the page or a request to a network fails the test."""

from contextlib import contextmanager


@contextmanager
def opened(browser, page, place="", width=1280, height=900, **how):
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    view = context.new_page()
    view.set_default_timeout(8000)
    errors, requests = [], []
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    view.on("dialog", lambda dialog: errors.append("a dialog"))
    view.on("request", lambda request: requests.append(request.url))
    view.goto(f"{page.as_uri()}#{place}")
    yield view
    assert errors == []
    assert all(url.startswith(("file:", "data:")) for url in requests), requests
    context.close()
