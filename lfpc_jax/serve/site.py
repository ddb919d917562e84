"""The page at /, and questions of the small world to try it with. Nothing of it comes from
elsewhere, and its policy allows no other address."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any

from starlette.responses import HTMLResponse, JSONResponse, Response

from lfpc_jax.data.scene import WORLDS
from lfpc_jax.data.world import World
from lfpc_jax.report.sketch import COLOURS
from lfpc_jax.rollout.dialogue import question

EXAMPLES = 12
_SEED = 5
_POLICY = (
    "default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class Site:
    """`world` names the settings of the examples; `about` is what the page must know."""

    def __init__(self, world: str, about: Mapping[str, Any]) -> None:
        self.world = World(WORLDS[world], _SEED, "heldout", EXAMPLES)
        self.about = {**about, "examples": EXAMPLES, "colours": {"boxes": COLOURS}}
        self.example = lru_cache(maxsize=EXAMPLES)(self._example)

    def page(self) -> Response:
        text, policy = self._page
        headers = {
            "content-security-policy": policy,
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        return HTMLResponse(text, headers=headers)

    @cached_property
    def _page(self) -> tuple[str, str]:
        scripts = (_text("report", "dom.js"), _text("serve", "ask.js"))
        script = '(function () {\n"use strict";\n' + "\n".join(scripts) + "})();\n"
        style = _text("report", "page.css") + _text("serve", "ask.css")
        about = json.dumps(self.about).replace("<", "\\u003c")
        page = _text("serve", "page.html")
        for name, text in (("style", style), ("about", about), ("script", script)):
            page = page.replace("{{" + name + "}}", text, 1)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return page, _POLICY.format(digest=digest)

    def _example(self, number: int) -> Response | None:
        if not 0 <= number < EXAMPLES:
            return None
        record = self.world[number]
        picture = base64.b64encode(record.picture.data or b"").decode()
        told = {
            "question": question(record),
            "answer": record.answer,
            "options": record.options,
            "image": f"data:image/jpeg;base64,{picture}",
        }
        return JSONResponse(told)


def _text(room: str, name: str) -> str:
    return (resources.files(f"lfpc_jax.{room}") / "page" / name).read_text(encoding="utf-8")
