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
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lfpc_jax.evaluation.arms import MEASURES
from lfpc_jax.evaluation.compared import Compared
from lfpc_jax.evaluation.sheet import estimate
from lfpc_jax.report.album import Album
from lfpc_jax.report.episodes import Episodes
from lfpc_jax.report.figures import arrange
from lfpc_jax.report.plots import OTHER_COLOUR, RUN_COLOURS
from lfpc_jax.report.problems import Problem
from lfpc_jax.report.run import Run
from lfpc_jax.report.sketch import COLOURS

_SCRIPTS = ("dom.js", "curves.js", "compared.js", "results.js", "stage.js", "episode.js",
            "browser.js", "main.js")  # fmt: skip
_LISTED = 200


@dataclass(frozen=True)
class Contents:
    """What a page shows: runs with their names, comparisons, and `about`, which says in words what
    is compared. A page that is written again shows the newest by itself, every `refresh` seconds;
    0 for never."""

    runs: Sequence[Run]
    names: Sequence[str]
    episodes: Episodes
    compared: Sequence[Compared] = ()
    about: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    refresh: int = 0

    def all_problems(self) -> list[Problem]:
        of_runs = (problem for run in self.runs for problem in run.problems)
        return [*self.problems, *of_runs, *self.episodes.problems]


def write(file: Path, contents: Contents) -> None:
    """Writes the page beside its name and renames it, so that a page is complete or as it was."""
    episodes = contents.episodes
    beside = file.with_name(f".{file.name}.part")
    with beside.open("w", encoding="utf-8") as out:
        for piece in _pieces(_index(contents), episodes, episodes.album):
            out.write(piece)
    beside.replace(file)


def _index(contents: Contents) -> dict[str, Any]:
    problems = [str(problem) for problem in contents.all_problems()]
    runs, names, episodes = contents.runs, contents.names, contents.episodes
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
        "about": contents.about,
        "compared": [_compared(each, names) for each in contents.compared],
        "figures": [asdict(figure) for figure in arrange(run.curves for run in runs)],
        "records": episodes.records,
        "episodes": episodes.lines,
        "problems": problems[:_LISTED],
        "refresh": contents.refresh,
        "unlisted": max(0, len(problems) - _LISTED),
        "sizes": episodes.album.sizes,
        "colours": {"runs": RUN_COLOURS, "boxes": COLOURS},
    }


def _compared(compared: Compared, names: Sequence[str]) -> dict[str, Any]:
    """A comparison's tables, and its values for the picture of the same."""
    return {
        "sheets": [asdict(sheet) for sheet in compared.sheets()],
        "measures": [(name, MEASURES[name]) for name in compared.shown_measures()],
        "arms": [
            {
                "name": arm,
                "colour": _colour(arm, names),
                "values": {
                    name: {**asdict(value), "told": estimate(asdict(value.estimate))}
                    for name, value in row.items()
                    if value
                },
            }
            for arm, row in compared.measured.items()
        ],
    }


def _colour(arm: str, names: Sequence[str]) -> str:
    """An arm has the colour of its first run, which is called as the arm or `ARM-SEED`."""
    for number, name in enumerate(names):
        if name == arm or name.rpartition("-")[0] == arm:
            return RUN_COLOURS[number % len(RUN_COLOURS)]
    return OTHER_COLOUR


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
