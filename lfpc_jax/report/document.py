"""The page: one HTML file that needs no other file and may fetch nothing.

The data lies in blocks that no browser runs: an index, and one block for each episode and each
picture, which is read only when it is shown. In them `<` is always written as an escape, so that no
text can end a block, and the page inserts every text as text. Its policy allows the page's own
script by digest, inline style, pictures from `data:`, and no connection at all.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from lfpc_jax.report.album import Album
from lfpc_jax.report.episodes import Episodes
from lfpc_jax.report.figures import arrange
from lfpc_jax.report.plots import RUN_COLOURS
from lfpc_jax.report.problems import Problem
from lfpc_jax.report.run import Run
from lfpc_jax.report.sketch import COLOURS

_SCRIPTS = ("dom.js", "curves.js", "results.js", "stage.js", "episode.js", "browser.js", "main.js")
_LISTED = 200


def write(file: Path, runs: Sequence[Run], names: Sequence[str], episodes: Episodes) -> None:
    """Writes the page beside its name and renames it, so that a page is complete or as it was."""
    beside = file.with_name(f".{file.name}.part")
    with beside.open("w", encoding="utf-8") as out:
        for piece in _pieces(_index(runs, names, episodes), episodes, episodes.album):
            out.write(piece)
    beside.replace(file)


def all_problems(runs: Sequence[Run], episodes: Episodes) -> list[Problem]:
    return [*(problem for run in runs for problem in run.problems), *episodes.problems]


def _index(runs: Sequence[Run], names: Sequence[str], episodes: Episodes) -> dict[str, Any]:
    problems = [str(problem) for problem in all_problems(runs, episodes)]
    return {
        "runs": [
            {
                "name": name,
                "folder": str(run.folder),
                "config": run.config,
                "tokenizer": run.tokenizer is not None,
                "curves": [asdict(curve) for curve in run.curves],
                "sheets": run.sheets,
            }
            for name, run in zip(names, runs, strict=True)
        ],
        "figures": [
            asdict(figure) for figure in arrange(c.name for run in runs for c in run.curves)
        ],
        "records": episodes.records,
        "episodes": episodes.lines,
        "problems": problems[:_LISTED],
        "unlisted": max(0, len(problems) - _LISTED),
        "sizes": episodes.album.sizes,
        "colours": {"runs": RUN_COLOURS, "boxes": COLOURS},
    }


def _pieces(index: dict[str, Any], episodes: Episodes, album: Album) -> Iterator[str]:
    page = _text("page.html")
    script = "\n".join(f"// {name}\n{_text(name)}" for name in _SCRIPTS)
    script = f'(function () {{\n"use strict";\n{script}}})();\n'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = page.replace("{{digest}}", digest)
    before, _, rest = page.partition("{{style}}")
    between, _, rest = rest.partition("{{data}}")
    more, _, after = rest.partition("{{script}}")
    yield before + _text("page.css") + between
    yield _block("index", json.dumps(index, allow_nan=False, separators=(",", ":")))
    for number, detail in enumerate(episodes.details):
        yield _block(f"episode-{number}", detail)
    for number, url in enumerate(album.urls):
        yield f'<script type="text/plain" id="picture-{number}">{url}</script>\n'
    yield more + script + after


def _block(name: str, data: str) -> str:
    text = data.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _text(name: str) -> str:
    return (resources.files("lfpc_jax.report") / "page" / name).read_text(encoding="utf-8")
