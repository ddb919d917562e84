"""The fine details of the synthetic world: what a mark can say, and how it is drawn.

A mark is one patch, or two side by side, on a grey plate. Two kinds vanish in a downsampled view
by construction. Stripes are sine waves of mean zero under a window that falls smoothly to nothing,
so that only the grey of the plate is left once a period takes less than a pixel, in any direction.
The colours of a coloured wave are complements and average to that grey too. The little that the
window lets through is hidden by the mottling of the plate, which varies over lengths of a period
and is far weaker than the waves. Without the mottling a classifier still reads half of the
directions from residues of two grey levels.

A spot is a disc in a halo of its complement, whose mean is the plate's grey too. It is lost where
the whole mark takes little more than a pixel, and in a crop it is one large patch of a colour,
which is very easy to read. Signs have equal areas, and letters similar ones; they are lost where
they are too small.

Periods are measured along the axes, also those of slanted stripes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from jaxtyping import Float, UInt8

from lfpc_jax.arrays import Size

Kind = Literal["stripes", "colours", "spots", "signs", "letters"]
Mark = tuple[str, ...]
"""What each of its patches shows, from left to right."""

GREY = 128
_SWING = 110.0
_MOTTLE = 16.0
_INK = -108.0
_SPOT_RADIUS = 0.22
_SPOT_MOTTLES = 2
_OVERSAMPLING = 4


@dataclass(frozen=True)
class Vocabulary:
    """What a patch of a kind can show, and the words that ask for it."""

    values: tuple[str, ...]
    ask: str
    compare: str

    def first(self, classes: int) -> "Vocabulary":
        """The vocabulary with no more values than this."""
        return replace(self, values=self.values[:classes])


VOCABULARIES: dict[Kind, Vocabulary] = {
    "stripes": Vocabulary(
        ("horizontal", "vertical", "rising", "falling"),
        "Which way do the stripes run",
        "Do the stripes run the same way",
    ),
    "colours": Vocabulary(
        ("black-white", "red-cyan", "green-magenta", "blue-yellow"),
        "Which colours are the stripes",
        "Are the stripes of the same colours",
    ),
    "spots": Vocabulary(
        ("red", "green", "blue", "yellow"),
        "Which colour is the spot",
        "Are the spots of the same colour",
    ),
    "signs": Vocabulary(
        ("circle", "square", "triangle", "cross"),
        "Which sign is drawn",
        "Is the same sign drawn",
    ),
    "letters": Vocabulary(
        ("A", "E", "H", "K", "R", "S", "T", "X"),
        "Which letter is written",
        "Is the same letter written",
    ),
}

_WAVES = {"horizontal": (0, 1), "vertical": (1, 0), "rising": (1, 1), "falling": (1, -1)}
_HUES = {
    "black-white": (1, 1, 1),
    "red-cyan": (1, -1, -1),
    "green-magenta": (-1, 1, -1),
    "blue-yellow": (-1, -1, 1),
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
}


def draw_plate(
    kind: Kind,
    mark: Mark,
    side: int,
    margin: int,
    cycles: float,
    rng: np.random.Generator,
    ground: Sequence[float] = (GREY,) * 3,
) -> UInt8[np.ndarray, "plate plate 3"]:
    """A mark of `side` pixels on its plate, which is `margin` wider on each side and has the colour
    `ground`.

    Waves have `cycles` periods along the mark.
    """
    period, whole = side / cycles, side + 2 * margin
    mottles = _SPOT_MOTTLES if kind == "spots" else max(2, round(whole / period))
    plate = np.array(ground) + _mottle(whole, mottles, kind in ("colours", "spots"), rng)
    edges = [round(side * patch / len(mark)) for patch in range(len(mark) + 1)]
    for value, left, right in zip(mark, edges, edges[1:]):
        patch = _patch(kind, value, (right - left, side), period, rng)
        plate[margin : margin + side, margin + left : margin + right] += patch
    return np.rint(plate).clip(0, 255).astype(np.uint8)


def _mottle(
    side: int, cells: int, coloured: bool, rng: np.random.Generator
) -> Float[np.ndarray, "side side 3"]:
    """Noise of so many cells a side, as smooth as a view of one pixel a period can be.

    Coloured marks vary in all three channels at once, so their noise has colours as well.
    """
    grids = rng.uniform(-_MOTTLE, _MOTTLE, (3 if coloured else 1, cells, cells))
    grids = grids.astype(np.float32) * np.sqrt(len(grids))
    images = (PIL.Image.fromarray(grid) for grid in grids)
    whole = (side, side)
    smooth = [np.asarray(image.resize(whole, PIL.Image.Resampling.BICUBIC)) for image in images]
    return np.stack(smooth * (3 // len(smooth)), axis=2).astype(float)


def _patch(
    kind: Kind, value: str, size: Size, period: float, rng: np.random.Generator
) -> Float[np.ndarray, "height width channels"]:
    """What a patch adds to its plate."""
    match kind:
        case "stripes":
            return _SWING * _wave(value, size, period, rng)[..., None]
        case "colours":
            direction = tuple(_WAVES)[rng.integers(len(_WAVES))]
            wave = _wave(direction, size, period, rng)
            return _SWING * wave[..., None] * np.array(_HUES[value])
        case "spots":
            return _SWING * _spot(size)[..., None] * np.array(_HUES[value])
        case "signs":
            return _INK * _sign(value, size)[..., None]
        case "letters":
            return _INK * _letter(value, size)[..., None]


def _wave(
    direction: str, size: Size, period: float, rng: np.random.Generator
) -> Float[np.ndarray, "height width"]:
    """A sine wave of mean zero, in -1..1, under a window that falls to nothing at the edges."""
    (width, height), (across, down) = size, _WAVES[direction]
    x, y = np.arange(width), np.arange(height)[:, None]
    wave = np.sin(2 * np.pi * ((across * x + down * y) / period + rng.random()))
    return _windowed(wave)


def _windowed(pattern: Float[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """The pattern, falling to nothing at the edges and shifted to a mean of zero."""
    height, width = pattern.shape
    window = _window((width, height))
    return window * (pattern - (window * pattern).sum() / window.sum())


@lru_cache(maxsize=1024)
def _window(size: Size) -> Float[np.ndarray, "height width"]:
    """Raised cosines along both axes."""
    rows, columns = (np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in size[::-1])
    return np.outer(rows, columns)


@lru_cache(maxsize=1024)
def _spot(size: Size) -> Float[np.ndarray, "height width"]:
    """A disc of 1 in a halo below zero, of mean zero."""
    x, y = _from_centre(size)
    disc = x**2 + y**2 < (_SPOT_RADIUS * min(size)) ** 2
    spot = _windowed(_averaged(disc.astype(float), size))
    return spot / abs(spot).max()


def _from_centre(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of a fine grid, in pixels from the centre."""
    columns, rows = (
        (np.arange(side * _OVERSAMPLING) + 0.5) / _OVERSAMPLING - side / 2 for side in size
    )
    return columns, rows[:, None]


@lru_cache(maxsize=1024)
def _sign(name: str, size: Size) -> Float[np.ndarray, "height width"]:
    """How much of each pixel the sign covers. All signs have the same area and centre."""
    unit = 0.36 * min(size)
    x, y = (offset / unit for offset in _from_centre(size))
    match name:
        case "circle":
            covered = x**2 + y**2 < 2 / np.pi
        case "square":
            covered = np.maximum(abs(x), abs(y)) < np.sqrt(0.5)
        case "triangle":
            covered = (y < 2 / 3) & (y > 2 * abs(x) - 4 / 3)
        case "cross":
            arm = 1 - np.sqrt(0.5)
            covered = (np.minimum(abs(x), abs(y)) < arm) & (np.maximum(abs(x), abs(y)) < 1)
    return _averaged(covered.astype(float), size)


@lru_cache(maxsize=1024)
def _letter(letter: str, size: Size) -> Float[np.ndarray, "height width"]:
    """How much of each pixel the letter covers, in Pillow's own font, as large as fits."""
    width, height = (side * _OVERSAMPLING for side in size)
    font = PIL.ImageFont.load_default(size=min(1.2 * width, height))
    image = PIL.Image.new("L", (width, height))
    centre = (width / 2, height / 2)
    PIL.ImageDraw.Draw(image).text(centre, letter, fill=255, font=font, anchor="mm")
    return _averaged(np.asarray(image) / 255, size)


def _averaged(fine: np.ndarray, size: Size) -> Float[np.ndarray, "height width"]:
    width, height = size
    blocks = fine.reshape(height, _OVERSAMPLING, width, _OVERSAMPLING)
    return blocks.mean(axis=(1, 3))
