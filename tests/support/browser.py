"""A page in a real browser, where an error on the page or a request to a network fails the test."""

from contextlib import contextmanager


def opened(browser, page, place="", *size, **how):
    """The page of a file."""
    return visited(browser, f"{page.as_uri()}#{place}", ("file:", "data:"), *size, **how)


@contextmanager
def visited(browser, address, own, width=1280, height=900, timeout=8000, **how):
    """A page, from which requests begin with one of `own`. It has its `requests` and `errors`."""
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    view = context.new_page()
    view.set_default_timeout(timeout)
    errors, requests = [], []
    view.on("pageerror", lambda error: errors.append(str(error)))
    view.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    view.on("dialog", lambda dialog: errors.append("a dialog"))
    view.on("request", lambda request: requests.append(request))
    view.goto(address)
    view.requests, view.errors = requests, errors
    yield view
    assert errors == []
    assert all(request.url.startswith(own) for request in requests), [r.url for r in requests]
    context.close()
