"""Every static length. Nothing else in the package decides one.

A program is compiled for a fixed shape, so each length that comes from data is rounded up to a
bucket. What is larger than the largest bucket is refused, never cut.
"""

import math
from dataclasses import dataclass

ASPECT_LIMIT = 200
"""The longest an image may be for its height (or the reverse), by Qwen's resize rule."""


@dataclass(frozen=True)
class Buckets:
    """The lengths that programs are compiled for, ascending."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.sizes, self.sizes[1:]))
        if not self.sizes or self.sizes[0] < 1 or not ascending:
            raise ValueError(
                f"buckets {self.sizes}: list at least one size, positive and strictly ascending"
            )

    def fit(self, n: int, what: str) -> int:
        """The smallest bucket that holds `n`; `what` names it should none do."""
        for size in self.sizes:
            if n <= size:
                return size
        raise ValueError(
            f"{what}: {n} is more than the largest bucket of {self.sizes}; "
            "add a larger bucket, or lower the budget that this length comes from"
        )


def geometric(smallest: int, largest: int, ratio: float = 2.0) -> Buckets:
    """Buckets from `smallest`, each `ratio` times the one before, closed by `largest`.

    Padding then costs less than `ratio` times what was asked for, with few programs.
    """
    if not 1 <= smallest <= largest or ratio <= 1:
        raise ValueError(
            f"buckets from {smallest} to {largest} by {ratio}: "
            "need 1 <= smallest <= largest and a ratio over 1"
        )
    sizes = []
    size = smallest
    while size < largest:
        sizes.append(size)
        size = math.ceil(size * ratio)
    return Buckets((*sizes, largest))


def windows_for(grid_rows: int, grid_cols: int, window: int = 4) -> int:
    """Attention windows of an image, `window` merged tokens a side; edge windows count whole."""
    return -(-grid_rows // window) * -(-grid_cols // window)


def max_windows(max_tokens: int, window: int = 4) -> int:
    """The most windows that any image of at most `max_tokens` merged tokens can need.

    Thin strips waste the most. With R <= C merged tokens a side, Qwen's resize bounds C by R:
    - rounding to the nearest: the image has fewer than R + 1/2 rows, so C <= 200 (R + 1/2);
    - shrinking to a budget of at most T tokens: the real sides have a product of at most T and a
      ratio of at most 200, so C <= sqrt(200 T);
    - growing to the minimum: C < 200 R + 1.
    The bound is attained, or nearly: the last few columns of an odd R cannot be reached.

    It holds for grids within `max_tokens`. The rule itself breaks a budget T for strips of a ratio
    over T, whose short side cannot shrink below one token; `Buckets.fit` refuses those.
    """
    shrunk = math.isqrt(ASPECT_LIMIT * max_tokens)
    return max(
        windows_for(
            rows,
            min(max_tokens // rows, max(ASPECT_LIMIT * rows + ASPECT_LIMIT // 2, shrunk)),
            window,
        )
        for rows in range(1, math.isqrt(max_tokens) + 1)
    )
