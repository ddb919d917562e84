"""Training curves as PNG files: one file a figure, with all runs in the same panels."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lfpc_jax.report.figures import Figure, Panel, arrange
from lfpc_jax.report.metrics import Curve

RUN_COLOURS = ("#3b6fb6", "#c8553d", "#3f8f63", "#8a5fb0", "#b98a1c", "#3a8c99")
"""The first run's, the second's, and so on round; the page has the same."""
OTHER_COLOUR = "#8b9099"
"""Of what is no run, as a model that a comparison has and that was not trained here."""

_COLUMNS = 4
_GREY = "#6b6b6b"


def plot(curves: Mapping[str, Sequence[Curve]], stem: Path) -> list[Path]:
    """`curves` by run. Writes `<stem>-<figure>.png` for each figure that has a curve to draw."""
    figures = arrange(curves.values())
    return [_draw(figure, curves, stem) for figure in figures if figure.panels]


def _draw(figure: Figure, curves: Mapping[str, Sequence[Curve]], stem: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(_COLUMNS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    said = [part for line in figure.lines for part in textwrap.wrap(line, 44 * columns)]
    size = 3.2 * columns + 0.4, 2.5 * rows + 0.9 + 0.16 * len(said)
    canvas = Canvas(figsize=size, layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.subplots(rows, columns, squeeze=False)
    lines: dict[str, Any] = {}
    for place, panel in enumerate(figure.panels):
        ax = axes[place // columns][place % columns]
        for number, (run, of_run) in enumerate(curves.items()):
            for curve in of_run:
                if curve.name == panel.name:
                    lines.setdefault(run, _line(ax, curve, number))
        _dress(ax, panel)
    for place in range(len(figure.panels), rows * columns):
        axes[place // columns][place % columns].set_axis_off()
    note = f" ({figure.note})" if figure.note else ""
    canvas.suptitle(f"{figure.title}{note}".replace("$", r"\$"), fontsize=11, x=0.01, ha="left")
    told = "\n".join(said).replace("$", r"\$")
    if told and len(lines) < 2:
        canvas.supxlabel(told, fontsize=8, color=_GREY, x=0.01, ha="left")
    if len(lines) > 1:
        # matplotlib drops labels that begin with "_" and reads "$" as mathematics
        labels = [f" {run}".replace("$", r"\$") for run in lines]
        canvas.legend(
            list(lines.values()),
            labels,
            loc="outside lower left",
            ncols=min(4, len(lines)),
            frameon=False,
            fontsize=9,
            title=told or None,
            title_fontsize=8,
            alignment="left",
        )
    file = stem.with_name(f"{stem.name}-{figure.key}.png")
    canvas.savefig(file, dpi=150)
    return file


def _line(ax: Any, curve: Curve, number: int) -> Any:
    """Training as a line; what is measured only at some steps as a dashed line with its points.
    Nothing is drawn across steps without a value."""
    colour = RUN_COLOURS[number % len(RUN_COLOURS)]
    for begin, end in zip(curve.starts, (*curve.starts[1:], len(curve.steps))):
        seldom = curve.kind != "train"
        style = {"linestyle": "--", "marker": "o", "markersize": 3} if seldom else {}
        if end - begin == 1:
            style = {"linestyle": "", "marker": "o", "markersize": 3}
        [line] = ax.plot(
            curve.steps[begin:end], curve.values[begin:end], color=colour, linewidth=1.4, **style
        )
    return line


def _dress(ax: Any, panel: Panel) -> None:
    title = "\n".join(textwrap.wrap(panel.title, 38))
    ax.set_title(title.replace("$", r"\$"), fontsize=9.5, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#bbbbbb")
    ax.tick_params(labelsize=8, colors=_GREY, length=3)
    ax.grid(axis="y", color="#ececec", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("step", fontsize=8, color=_GREY)
    ax.set_ylabel(panel.unit, fontsize=8, color=_GREY)
