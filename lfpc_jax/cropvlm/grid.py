"""Boxes to label a set with: those of a grid, and what is published of making boxes larger. Pure.

A grid of N x N cells has (N (N + 1) / 2)^2 boxes, one for each range of columns and of rows: 225
for N = 5. `cells` gives them in a fixed order, and stored likelihoods are in that order.
"""

import bisect
import hashlib
import itertools
from collections.abc import Sequence

from lfpc_jax.processing.geometry import Box, Size, area, clamp, scaled

FACTORS = (45.0, 10.0, 4.0, 2.0, 1.0)
"""By how much the authors' code multiplies the areas of outside boxes, by quintile of the share of
the image that they cover, the smallest first."""


def cells(count: int) -> tuple[Box, ...]:
    """Every range of cells, in cells, ordered by its upper, lower, left and right edge."""
    if count < 1:
        raise ValueError(f"a grid of {count} x {count} cells; it needs at least one")
    ranges = list(itertools.combinations(range(count + 1), 2))
    return tuple(Box(x1, y1, x2, y2) for y1, y2 in ranges for x1, x2 in ranges)


def in_pixels(cell: Box, count: int, size: Size) -> Box:
    """A range of cells in pixels of a picture of this size; cells need not be whole pixels."""
    width, height = size
    return Box(
        cell.x1 * width / count,
        cell.y1 * height / count,
        cell.x2 * width / count,
        cell.y2 * height / count,
    )


def widened(box: Box, size: Size, most: float, *, seed: int, record: str) -> Box:
    """The box with each side moved outwards by a random amount, uniform between nothing and `most`
    times the picture's side, and clipped. The four amounts depend on the seed and the record only.
    """
    name = f"{seed}\0{record}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(name, digest_size=32).digest()
    left, top, right, bottom = (
        most * int.from_bytes(digest[first : first + 8]) / 2**64 for first in range(0, 32, 8)
    )
    width, height = size
    wide = Box(
        box.x1 - left * width,
        box.y1 - top * height,
        box.x2 + right * width,
        box.y2 + bottom * height,
    )
    return clamp(wide, size)


def expanded(
    boxes: Sequence[Box], sizes: Sequence[Size], factors: Sequence[float] = FACTORS
) -> list[Box]:
    """The boxes with their areas multiplied by `factors`, one for each of as many equal parts of
    them. The part (quintile) of a box is decided by the share of the other boxes that cover less of
    their picture, so equal ones are treated alike."""
    shares = [
        area(box) / (width * height) for box, (width, height) in zip(boxes, sizes, strict=True)
    ]
    ordered = sorted(shares)
    parts = [bisect.bisect_left(ordered, share) * len(factors) // len(boxes) for share in shares]
    return [scaled(box, factors[part], size) for box, part, size in zip(boxes, parts, sizes)]
