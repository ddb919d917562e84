"""A scene of the synthetic world, as a plan: what stands where, and what is asked.

A scene is a pure function of settings, seed, split and index. So any process can make any scene,
and splits never share a stream of random numbers. Objects stand in the cells of a coarse grid, so
they never overlap and placing them never fails. Each object has a name of its own (colour and
shape) and carries a mark. All marks of a scene are of one kind, so the right object must be found.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from lfpc_jax.arrays import Box4, Nests, Size
from lfpc_jax.data import questions
from lfpc_jax.data.marks import VOCABULARIES, Kind, Mark
from lfpc_jax.processing import geometry

Split = Literal["train", "heldout"]
Shape = Literal["block", "disc", "diamond"]
Range = tuple[int, int]
"""The least and the most, both included."""

SPLITS: tuple[Split, ...] = ("train", "heldout")
FIT: dict[Shape, float] = {"block": 1.3, "disc": 1.7, "diamond": 2.4}
"""How many times its mark's side an object measures at least, so that the mark lies within it."""

COLOURS = {
    "red": (205, 45, 45),
    "green": (50, 150, 60),
    "blue": (45, 80, 200),
    "yellow": (235, 205, 50),
    "orange": (240, 135, 35),
    "purple": (130, 60, 165),
    "pink": (240, 150, 190),
    "brown": (115, 75, 45),
}
_GAP = 4
_CONTEXT = 1.6
_LONGEST = 1 << 15
"""Pixels of a side. A scene is drawn whole, in memory."""


@dataclass(frozen=True)
class WorldSettings:
    """The settings of a world. Lengths are in pixels of the original.

    Stripes have a period of `mark_side / cycles`. A view begins to lose them when a period is under
    two of its pixels, and has lost them when it is one pixel. So a range of mark sides makes the
    necessary view differ between scenes. Spots and signs are lost when the whole mark is a pixel or
    two.

    `classes` limits how many values of a kind occur. `roughness` is that of drawn backgrounds; at 0
    they are plain. `slope` makes backgrounds redder to the right and greener to the bottom, by up
    to this much of 255, so that a place can be recognised by the colour around it. `tint` is the
    share of its object's colour in a mark's plate; the rest is grey. `longest_side` is the records'
    image gap; None leaves it to resolution selection. Without `choices` there are no options, and
    the answer is the text of the right one. `cross_patches` replaces `patches` for the marks of
    questions about two marks, unless it is None.
    """

    size: Size = (448, 448)
    objects: Range = (4, 6)
    object_side: Range = (56, 88)
    mark_side: Range = (20, 26)
    cycles: float = 6.0
    kinds: tuple[Kind, ...] = ("stripes",)
    classes: int = 8
    patches: tuple[int, ...] = (2,)
    cross_patches: tuple[int, ...] | None = None
    shapes: tuple[Shape, ...] = ("block", "disc", "diamond")
    colours: tuple[str, ...] = tuple(COLOURS)
    clutter: int = 8
    roughness: float = 1.0
    slope: float = 0.0
    tint: float = 0.0
    photographs: str = ""
    longest_side: int | None = None
    cross_share: float = 0.3
    single_options: Range = (2, 4)
    cross_options: Range = (2, 4)
    choices: bool = True

    def __post_init__(self) -> None:
        fewest = min(len(VOCABULARIES[kind].first(self.classes).values) for kind in self.kinds)
        offered = fewest if self.choices and 1 in self.patches else 4
        asked = 2 if self.cross_share > 0 else 1
        limits: tuple[tuple[str, Range, int, int], ...] = (
            ("size", (min(self.size), max(self.size)), 16, _LONGEST),
            ("objects", self.objects, asked, len(self.shapes) * len(self.colours)),
            ("object_side", self.object_side, 8, min(self.size)),
            ("mark_side", self.mark_side, 8, min(self.size)),
            ("classes", (self.classes, self.classes), 2, 8),
            ("single_options", self.single_options, 2, min(offered, 4)),
            ("cross_options", self.cross_options, 2, 4),
            ("patches", (min(self.patches), max(self.patches)), 1, 2),
        )
        for name, (low, high), least, most in limits:
            if not least <= low <= high <= most:
                raise ValueError(
                    f"world settings: {name} {low}..{high} must lie within {least}..{most} "
                    f"for {len(self.shapes)} shapes, {len(self.colours)} colours, {fewest} classes "
                    f"of marks, size {self.size} and a share of {self.cross_share} cross questions"
                )
        if unknown := set(self.colours) - set(COLOURS):
            raise ValueError(f"world settings: colours {sorted(unknown)} are not in {[*COLOURS]}")
        for name in ("cross_share", "roughness", "tint"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise ValueError(f"world settings: {name} {share} must lie in 0..1")
        gap = 1 if self.longest_side is None else self.longest_side
        if not 0 < self.cycles < math.inf or self.clutter < 0 or gap < 1:
            raise ValueError(
                f"world settings: cycles {self.cycles} and longest_side {self.longest_side} must "
                f"be positive and clutter {self.clutter} not negative"
            )
        if not math.isfinite(self.slope):
            raise ValueError(f"world settings: slope {self.slope} must be finite")
        columns, rows = self.cells
        if columns * rows < self.objects[1]:
            raise ValueError(
                f"world settings: {self.objects[1]} objects of up to {self.largest_side} pixels "
                f"have only {columns} x {rows} places in {self.size[0]}x{self.size[1]}; "
                "ask for fewer or smaller objects, smaller marks, or a larger image"
            )

    @property
    def largest_side(self) -> int:
        """The largest side of an object, which is made larger if its mark needs it."""
        fit = max(FIT[shape] for shape in self.shapes)
        return max(self.object_side[1], math.ceil(fit * self.mark_side[1]))

    @property
    def cells(self) -> tuple[int, int]:
        """Columns and rows of the grid that objects stand in."""
        cell = self.largest_side + _GAP
        return self.size[0] // cell, self.size[1] // cell


EASY = WorldSettings(
    objects=(1, 1),
    object_side=(48, 64),
    mark_side=(10, 12),
    kinds=("spots",),
    patches=(1,),
    shapes=("block",),
    colours=("purple",),
    clutter=0,
    roughness=0.0,
    longest_side=48,
    cross_share=0.0,
    choices=False,
)
"""What the smallest model can learn: one block on a plain ground, which its view shows, and on it a
spot of one of four colours, which only a crop shows. The question is always the same."""


MICRO = WorldSettings(
    size=(224, 224),
    objects=(3, 4),
    object_side=(66, 88),
    mark_side=(36, 56),
    cycles=7.5,
    kinds=("stripes",),
    patches=(2,),
    cross_patches=(1,),
    shapes=("block",),
    colours=("red", "green", "blue", "yellow"),
    clutter=0,
    roughness=0.3,
    slope=60.0,
    tint=0.5,
    cross_share=0.2,
    single_options=(4, 4),
    cross_options=(4, 4),
    choices=False,
)
"""For a tiny model, and hard enough to need its crops: blocks in the quarters of a small picture,
with stripes that a view of a quarter of its side loses; both halves of a mark, or two blocks, are
asked about."""

WORLDS = {"default": WorldSettings(), "easy": EASY, "micro": MICRO}


@dataclass(frozen=True)
class Thing:
    """An object; `box` and `mark_box` are whole pixels."""

    colour: str
    shape: Shape
    box: Box4
    mark_box: Box4
    mark: Mark

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The plan. The objects that the question is about come first."""

    settings: WorldSettings
    id: str
    entropy: tuple[int, ...]
    kind: Kind
    things: tuple[Thing, ...]
    asked: int
    question: str
    options: tuple[str, ...]
    answer: str

    @property
    def category(self) -> str:
        return "single" if self.asked == 1 else "cross"

    @property
    def names(self) -> tuple[str, ...]:
        """What the targets are called in the question."""
        return tuple(thing.name for thing in self.things[: self.asked])

    @property
    def targets(self) -> Nests:
        """For each object asked about, three boxes: its mark, the object, and the object with some
        surroundings."""
        return tuple(
            (thing.mark_box, thing.box, _grown(thing.box, _CONTEXT, self.settings.size))
            for thing in self.things[: self.asked]
        )

    def around_marks(self, times: Sequence[float]) -> Nests:
        """For each object asked about: boxes that are the given numbers of times as wide as its
        mark."""
        return tuple(
            tuple(_grown(thing.mark_box, factor, self.settings.size) for factor in times)
            for thing in self.things[: self.asked]
        )


def plan(settings: WorldSettings, seed: int, split: Split, index: int) -> Scene:
    entropy = (seed, SPLITS.index(split), index)
    rng = np.random.default_rng(entropy)
    asked = 2 if rng.random() < settings.cross_share else 1
    count = _within(settings.objects, rng)
    kind = settings.kinds[rng.integers(len(settings.kinds))]
    words = VOCABULARIES[kind].first(settings.classes)
    possible = settings.patches if asked == 1 else settings.cross_patches or settings.patches
    patches = possible[rng.integers(len(possible))]
    looks = _looks(settings, count, rng)
    names = [f"{colour} {shape}" for colour, shape in looks]
    if asked == 1:
        options = _within(settings.single_options, rng)
        question = questions.about_one(names[0], words, patches, options, rng)
    else:
        options = _within(settings.cross_options, rng)
        question = questions.about_two((names[0], names[1]), words, patches, options, rng)
    others = [questions.any_mark(words, patches, rng) for _ in range(count - asked)]
    marks = [*question.marks, *others]
    texts = [str(text) for text in rng.permutation((question.right, *question.wrong))]
    return Scene(
        settings=settings,
        id=f"world/{_digest(settings)}/{split}/{seed}/{index:07d}",
        entropy=entropy,
        kind=kind,
        things=_placed(settings, looks, marks, rng),
        asked=asked,
        question=question.text,
        options=tuple(texts) if settings.choices else (),
        answer="ABCD"[texts.index(question.right)] if settings.choices else question.right,
    )


@lru_cache(maxsize=64)
def _digest(settings: WorldSettings) -> str:
    """Distinguishes worlds by their settings, wherever their photographs lie."""
    knobs = asdict(settings) | {"photographs": Path(settings.photographs).name}
    return hashlib.sha256(json.dumps(knobs, sort_keys=True).encode()).hexdigest()[:8]


def _within(limits: Range, rng: np.random.Generator) -> int:
    return int(rng.integers(limits[0], limits[1] + 1))


def _looks(
    settings: WorldSettings, count: int, rng: np.random.Generator
) -> list[tuple[str, Shape]]:
    """`count` different pairs of colour and shape."""
    picks = rng.choice(len(settings.colours) * len(settings.shapes), count, replace=False)
    places = (divmod(int(pick), len(settings.shapes)) for pick in picks)
    return [(settings.colours[colour], settings.shapes[shape]) for colour, shape in places]


def _placed(
    settings: WorldSettings,
    looks: list[tuple[str, Shape]],
    marks: list[Mark],
    rng: np.random.Generator,
) -> tuple[Thing, ...]:
    columns, rows = settings.cells
    width, height = settings.size[0] / columns, settings.size[1] / rows
    cells = rng.choice(columns * rows, len(looks), replace=False)
    things = []
    for (colour, shape), mark, cell in zip(looks, marks, cells):
        row, column = divmod(int(cell), columns)
        mark_side = _within(settings.mark_side, rng)
        side = max(_within(settings.object_side, rng), math.ceil(FIT[shape] * mark_side))
        x = int(column * width + rng.random() * (width - side))
        y = int(row * height + rng.random() * (height - side))
        inner = max(mark_side, int(side / FIT[shape]))
        inset, room = (side - inner) // 2, (0, inner - mark_side)
        mark_x, mark_y = (start + inset + _within(room, rng) for start in (x, y))
        box, mark_box = _square_box(x, y, side), _square_box(mark_x, mark_y, mark_side)
        things.append(Thing(colour, shape, box, mark_box, mark))
    return tuple(things)


def _square_box(x: int, y: int, side: int) -> Box4:
    return float(x), float(y), float(x + side), float(y + side)


def _grown(box: Box4, times: float, size: Size) -> Box4:
    """The box with a margin, clamped to the picture, in whole pixels."""
    margin = (times - 1) / 2 * (box[2] - box[0])
    x1, y1, x2, y2 = box
    grown = geometry.Box(x1 - margin, y1 - margin, x2 + margin, y2 + margin)
    left, upper, right, lower = geometry.crop_box(grown, size)
    return float(left), float(upper), float(right), float(lower)
