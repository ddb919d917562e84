"""The labels of a set as pictures: what they came to in numbers, and some of them on their
originals."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from lfpc_jax.processing.geometry import Box
from lfpc_jax.report.sketch import colour, outlined

_BLUE, _ORANGE = "#3a5fcd", "#e08a2e"
_HEIGHT = 300
_COLUMNS = 3
_GAP = 14
_LINE = 18
_LETTERS = 52


@dataclass(frozen=True)
class Labelled:
    """A picture of the sheet: the original, its boxes by name, and what is written under it."""

    original: PIL.Image.Image
    boxes: Mapping[str, Box]
    text: str


def plot(report: Mapping[str, Any], file: Path) -> None:
    """Draws what `cropvlm.labelled.report_of` counted."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _sizes(axes[0, 0], report["size"])
    _map(axes[0, 1], report["map"])
    _gains(axes[1, 0], report["gain"])
    _ties(axes[1, 1], report["ties"])
    figure.suptitle(_title(report), fontsize=10)
    figure.savefig(file, dpi=120)


def _title(report: Mapping[str, Any]) -> str:
    lost = sum(report["lost"].values())
    title = f"labels: {report['records']:,}, records without one: {lost:,}"
    for name in ("best", "label"):
        if covered := report["targets"][name]:
            title += (
                f"\n{name} boxes and {report['targets']['records']:,} true ones: recall "
                f"{covered['recall']:.1%}, full recall {covered['full_recall']:.1%}, IoU "
                f"{covered['iou']:.1%}"
            )
    return title


def _sizes(axes: Any, sizes: Mapping[str, Any]) -> None:
    for number, (name, shade) in enumerate((("best", _BLUE), ("label", _ORANGE))):
        if not (of := sizes[name]):
            continue
        counts = of["histogram"]
        width = 1 / len(counts)
        places = [(place + 0.25 + number / 2) * width for place in range(len(counts))]
        told = f"{name}: mean {of['mean']:.1%}, median {of['quantiles']['0.5']:.1%}"
        axes.bar(places, counts, width=0.5 * width, color=shade, label=told)
    axes.set_xlabel("box area / image area")
    axes.set_ylabel("records")
    _legend(axes)


def _map(axes: Any, covered: Sequence[Sequence[float]]) -> None:
    drawn = axes.imshow(covered, extent=(0, 1, 1, 0), cmap="viridis", vmin=0, aspect="auto")
    axes.figure.colorbar(drawn, ax=axes, label="share of labels that cover it")
    axes.set_xlabel("width of the image")
    axes.set_ylabel("height of the image")


def _gains(axes: Any, gains: Mapping[str, Any]) -> None:
    axes.set_xlabel("log-likelihood of the answer with the best box, gained in nats")
    axes.set_ylabel("records")
    drawn = [(name, of) for name, of in gains.items() if of]
    for number, (name, of) in enumerate(drawn):
        edges, counts = of["histogram"]["edges"], of["histogram"]["counts"]
        width = 0.8 / len(drawn)
        places = [place - 0.4 + (number + 0.5) * width for place in range(len(counts))]
        told = {"whole": "over the whole image as the crop", "without": "over no crop"}[name]
        told += f": mean {of['mean']:.2f}, median {of['median']:.2f}"
        axes.bar(places, counts, width=width, color=(_BLUE, _ORANGE)[number], label=told)
        between = [place + 0.5 for place in range(len(edges))]
        axes.set_xticks(between, [f"{edge:g}" for edge in edges], fontsize=8)
        axes.set_xlim(-0.5, len(counts) - 0.5)
    if drawn:
        _legend(axes)
    else:
        axes.set_title("no likelihoods: the boxes are the set's own", fontsize=9)


def _legend(axes: Any) -> None:
    """A legend with room for it above what is drawn."""
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left")


def _ties(axes: Any, ties: Mapping[str, Any]) -> None:
    names, counts = list(ties["boxes"]), list(ties["boxes"].values())
    axes.bar(names, counts, color=_BLUE)
    axes.set_xlabel("boxes that are as good as the best")
    axes.set_ylabel("records")
    axes.set_title(f"records with a tie: {ties['records']:,}", fontsize=9)


def sheet(labelled: Sequence[Labelled]) -> PIL.Image.Image:
    """The pictures in rows, each with its boxes and its text."""
    tiles = [_tile(each) for each in labelled]
    rows = [tiles[first : first + _COLUMNS] for first in range(0, len(tiles), _COLUMNS)]
    width = max(sum(tile.width + _GAP for tile in row) for row in rows) + _GAP
    heights = [max(tile.height for tile in row) + _GAP for row in rows]
    page = PIL.Image.new("RGB", (width, sum(heights) + _GAP), "white")
    top = _GAP
    for row, height in zip(rows, heights):
        left = _GAP
        for tile in row:
            page.paste(tile, (left, top))
            left += tile.width + _GAP
        top += height
    return page


def _tile(labelled: Labelled) -> PIL.Image.Image:
    picture = outlined(labelled.original, list(labelled.boxes.values()), _HEIGHT)
    lines = [line for part in labelled.text.split("\n") for line in textwrap.wrap(part, _LETTERS)]
    width = max(picture.width, _HEIGHT * 4 // 3)
    tile = PIL.Image.new("RGB", (width, picture.height + _LINE * (len(lines) + 1) + 6), "white")
    tile.paste(picture, (0, 0))
    draw = PIL.ImageDraw.Draw(tile)
    font = PIL.ImageFont.load_default(14)
    left = 0.0
    for number, name in enumerate(labelled.boxes):
        told = f"{number + 1} {name}   "
        draw.text((left, picture.height + 4), told, fill=colour(number), font=font)
        left += draw.textlength(told, font=font)
    for number, line in enumerate(lines, start=1):
        draw.text((0, picture.height + 4 + number * _LINE), line, fill="#20242a", font=font)
    return tile
