"""Boxes and the frames they are measured in.

A picture has two sizes: that of the file (`original`), and that which the model sees after the
resize (`shown`). A box has a meaning only in one of them, so every conversion goes through a
`Frame`. Sizes are (width, height). Boxes are (x1, y1, x2, y2) along the edges of pixels: the whole
picture is (0, 0, width, height). The functions below take boxes in pixels of the size they are
given.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Size = tuple[int, int]
Convention = Literal["shown", "original", "unit", "percent", "mille"]
"""Pixels as seen, pixels of the original, or shares of a side: of 1, of 100, of 1000."""

_PIXEL_NOISE = 1e-6  # what conversions may add to a coordinate that was whole


class Box(NamedTuple):
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True)
class Frame:
    """One picture at two sizes, both (width, height)."""

    original: Size
    shown: Size

    def __post_init__(self) -> None:
        if min(*self.original, *self.shown) < 1:
            raise ValueError(
                f"frame of original {self.original}, shown {self.shown}: "
                "every side must be at least 1 pixel"
            )

    def extent(self, convention: Convention) -> Size:
        """The coordinates of the picture's lower right corner."""
        match convention:
            case "shown":
                return self.shown
            case "original":
                return self.original
            case "unit":
                return 1, 1
            case "percent":
                return 100, 100
            case "mille":
                return 1000, 1000

    def to(self, box: Box, source: Convention, target: Convention) -> Box:
        """The same box in another convention; neither rounded nor clamped."""
        (from_x, from_y), (to_x, to_y) = self.extent(source), self.extent(target)
        return Box(
            box.x1 * to_x / from_x,
            box.y1 * to_y / from_y,
            box.x2 * to_x / from_x,
            box.y2 * to_y / from_y,
        )


def area(box: Box) -> float:
    """The area of a box; 0 if its corners are out of order."""
    return float(max(box.x2 - box.x1, 0) * max(box.y2 - box.y1, 0))


def intersection(a: Box, b: Box) -> Box:
    """The box that two boxes share. Its area is 0 if they do not meet."""
    return Box(max(a.x1, b.x1), max(a.y1, b.y1), min(a.x2, b.x2), min(a.y2, b.y2))


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 for two empty boxes."""
    shared = area(intersection(a, b))
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def clamp(box: Box, bounds: Size) -> Box:
    """Each corner moved to the nearest point of the picture."""
    if not all(map(math.isfinite, box)):
        raise ValueError(f"{box}: every coordinate must be a finite number; drop this box")
    x1, x2 = (float(min(max(x, 0), bounds[0])) for x in (box.x1, box.x2))
    y1, y2 = (float(min(max(y, 0), bounds[1])) for y in (box.y1, box.y2))
    return Box(x1, y1, x2, y2)


def grow(box: Box, minimum_side: int, bounds: Size) -> Box:
    """The box, clamped to the picture, with sides of at least `minimum_side`.

    A short side grows about its centre and is then shifted inside the picture. If the picture
    itself is shorter than `minimum_side`, the box takes the picture's whole side. Long sides stay
    as they are.
    """
    inside = clamp(box, bounds)
    x1, x2 = _grow_side(inside.x1, inside.x2, minimum_side, bounds[0])
    y1, y2 = _grow_side(inside.y1, inside.y2, minimum_side, bounds[1])
    return Box(x1, y1, x2, y2)


def scaled(box: Box, factor: float | int, bounds: Size) -> Box:
    """The box with `factor` times its area: the same centre and shape, then shifted inside the
    picture. A side that would be longer than the picture's takes the whole of it."""
    inside = clamp(box, bounds)
    x1, x2 = _scaled_side(inside.x1, inside.x2, math.sqrt(factor), bounds[0])
    y1, y2 = _scaled_side(inside.y1, inside.y2, math.sqrt(factor), bounds[1])
    return Box(x1, y1, x2, y2)


def hull(boxes: Iterable[Box]) -> Box:
    """The smallest box around all boxes."""
    x1, y1, x2, y2 = zip(*boxes)
    return Box(min(x1), min(y1), max(x2), max(y2))


def crop_box(box: Box, bounds: Size) -> tuple[int, int, int, int]:
    """The whole pixels that a box touches: inside the picture, and at least one."""
    inside = clamp(box, bounds)
    x1, x2 = _whole_pixels(inside.x1, inside.x2, bounds[0])
    y1, y2 = _whole_pixels(inside.y1, inside.y2, bounds[1])
    return x1, y1, x2, y2


def _grow_side(low: float, high: float, minimum: int, extent: int) -> tuple[float, float]:
    if high - low >= minimum:
        return low, high
    return _about_centre(low, high, float(minimum), extent)


def _scaled_side(low: float, high: float, factor: float, extent: int) -> tuple[float, float]:
    return _about_centre(low, high, factor * (high - low), extent)


def _about_centre(low: float, high: float, length: float, extent: int) -> tuple[float, float]:
    """A side of this length about the same centre, shifted inside the picture."""
    if extent <= length:
        return 0.0, float(extent)
    low = min(max((low + high - length) / 2, 0.0), extent - length)
    return low, min(low + length, float(extent))


def _whole_pixels(low: float, high: float, extent: int) -> tuple[int, int]:
    first = min(math.floor(low + _PIXEL_NOISE), extent - 1)
    return first, min(max(math.ceil(high - _PIXEL_NOISE), first + 1), extent)
