"""Draws the floors: every room of the package, how long it is, and which rooms it imports.

    python bench/floors.py [--png docs/floors.png]

Rooms and imports are read from the source, with `tests/test_floors.py`, which holds the floors and
enforces that imports point downwards. Where a room reaches another through arrows that are there
already, its own arrow is left out.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from test_floors import FLOORS, imports, rooms  # noqa: E402

_WHAT = {
    "arrays": "names for annotations",
    "regular": "files, read within bounds",
    "stopping": "SIGTERM and Ctrl-C",
    "jsonfile": "JSON, checked",
    "shapes": "every static length",
    "trajectory": "the records that flow",
    "distributed": "meshes, sharding, processes",
    "processing": "images, chat, tokens",
    "remote": "servers, the Hub",
    "model": "Qwen2.5-VL, cache, LoRA",
    "checkpoint": "folders in and out",
    "data": "sets, the small world",
    "rewards": "rules, judge, boxes",
    "rollout": "tools, episodes, the engine",
    "grpo": "advantages, loss, update",
    "infogap": "resolution selection",
    "evaluation": "benchmarks, altered crops",
    "cropvlm": "crop network and target",
    "report": "metrics, plots, the page",
    "run": "config, folder, health, session",
    "plan": "what a run needs, compiled",
    "serve": "the server and its page",
    "cli": "one program per command",
}
_COLUMNS = {
    "checkpoint": 0,
    **dict.fromkeys(("cli", "plan", "run", "grpo", "model", "distributed", "arrays"), 1),
    **dict.fromkeys(("evaluation", "rollout", "data", "processing", "trajectory"), 2),
    **dict.fromkeys(("serve", "report", "infogap", "rewards", "remote", "shapes"), 3),
}
"""So that arrows pass between the boxes."""
_WIDTH, _HEIGHT, _GAP, _STEP = 3.0, 0.82, 1.1, 1.4
_INK, _QUIET, _ARROW = "#1f2933", "#7b8794", "#98a4b0"
_LINE = "#eef1f4"
_LOW, _HIGH = "#dbe9f4", "#f6e3cf"


@dataclass(frozen=True)
class Room:
    name: str
    lines: int
    uses: tuple[str, ...]


def read_rooms() -> dict[str, Room]:
    """Of the package as it stands, by name."""
    lines: dict[str, int] = {}
    uses: dict[str, set[str]] = {}
    for path, room in rooms().items():
        lines[room] = lines.get(room, 0) + len(path.read_text().splitlines())
        named = {name.split(".")[1] for name in imports(path) if name.startswith("lfpc_jax.")}
        uses[room] = uses.get(room, set()) | (named - {room})
    return {room: Room(room, lines[room], tuple(sorted(uses[room]))) for room in sorted(lines)}


def needed(found: Mapping[str, Room]) -> list[tuple[str, str]]:
    """The imports, without those between rooms that others connect."""

    def below(room: str) -> set[str]:
        return {further for used in found[room].uses for further in (used, *below(used))}

    return [
        (name, used)
        for name, room in found.items()
        for used in room.uses
        if not any(used in below(other) for other in room.uses)
    ]


def places(found: Mapping[str, Room]) -> dict[str, tuple[float, float]]:
    """The lower left corner of each room's box. A room that has no column yet takes a free one."""
    corners = {}
    for level, floor in enumerate(FLOORS):
        there = [room for room in floor if room in found]
        free = iter(sorted(set(range(9)) - {_COLUMNS.get(room) for room in there}))
        for room in there:
            column = _COLUMNS[room] if room in _COLUMNS else next(free)
            corners[room] = column * (_WIDTH + _GAP), level * _STEP
    return corners


def draw(found: Mapping[str, Room], file: Path) -> None:
    corners = places(found)
    right = max(x for x, _ in corners.values()) + _WIDTH
    top = max(y for _, y in corners.values()) + _HEIGHT
    figure, axes = plt.subplots(figsize=((right + 1.4) * 0.8, (top + 0.6) * 0.8))
    axes.set(xlim=(-0.9, right + 0.5), ylim=(-0.3, top + 0.3), aspect="equal")
    axes.axis("off")
    for level in range(len(FLOORS)):
        middle = level * _STEP + _HEIGHT / 2
        axes.plot([-0.35, right + 0.3], [middle, middle], color=_LINE, lw=0.8, zorder=0)
        axes.text(
            -0.5,
            middle,
            f"floor {level}" if level in (0, len(FLOORS) - 1) else str(level),
            color=_QUIET,
            va="center",
            ha="right",
        )
    arrows = needed(found)
    for room, used in arrows:
        _arrow(axes, corners[room], corners[used])
    for name, corner in corners.items():
        _box(axes, corner, found[name], corner[1] / (top - _HEIGHT))
    _legend(axes, corners, found, len(arrows))
    figure.savefig(file, dpi=120, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def _legend(
    axes: Axes, corners: Mapping[str, tuple[float, float]], found: Mapping[str, Room], arrows: int
) -> None:
    """In the empty corner above the rooms of the last columns."""
    x, y = 2 * (_WIDTH + _GAP), max(y for _, y in corners.values()) + _HEIGHT + 0.6
    lines, imports = (
        sum(room.lines for room in found.values()),
        sum(len(room.uses) for room in found.values()),
    )
    said = (
        "Each box is a room: a folder or a file of lfpc_jax, with its lines of code. Each\n"
        "arrow is an import, and all point to a lower floor. An import that a path of\n"
        f"other arrows already shows is left out: {arrows} of {imports} are drawn."
    )
    patch = axes.text(
        x, y, f"{len(found)} rooms, {lines:,} lines", color=_INK, size=13, weight="bold", va="top"
    )
    patch.set_bbox({"fc": "white", "ec": "none", "pad": 2})
    text = axes.text(x, y - 0.5, said, color=_INK, size=9, va="top", linespacing=1.5)
    text.set_bbox({"fc": "white", "ec": "none", "pad": 2})


def _arrow(axes: Axes, above: tuple[float, float], below: tuple[float, float]) -> None:
    start = above[0] + _WIDTH / 2, above[1]
    end = below[0] + _WIDTH / 2, below[1] + _HEIGHT
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>,head_width=2.2,head_length=4", color=_ARROW, lw=1,
        shrinkA=0, shrinkB=0, zorder=1,
    )  # fmt: skip
    axes.add_patch(arrow)


def _box(axes: Axes, corner: tuple[float, float], room: Room, share: float) -> None:
    low, high = matplotlib.colors.to_rgb(_LOW), matplotlib.colors.to_rgb(_HIGH)
    face = tuple(a + (b - a) * share for a, b in zip(low, high))
    patch = FancyBboxPatch(
        corner, _WIDTH, _HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.12", fc=face, ec=_INK, lw=0.9, zorder=2,
    )  # fmt: skip
    axes.add_patch(patch)
    x, y = corner
    axes.text(x + 0.14, y + 0.53, room.name, color=_INK, weight="bold", size=11, va="center")
    axes.text(
        x + _WIDTH - 0.14, y + 0.53, f"{room.lines:,}",
        color=_QUIET, size=9, ha="right", va="center",
    )  # fmt: skip
    axes.text(x + 0.14, y + 0.22, _WHAT[room.name], color=_INK, size=8, va="center")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--png", type=Path, default=ROOT / "docs/floors.png", metavar="FILE")
    args = parser.parse_args(argv)
    found = read_rooms()
    draw(found, args.png)
    print(f"wrote {args.png}: {len(found)} rooms, {sum(r.lines for r in found.values()):,} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
