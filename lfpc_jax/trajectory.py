"""The records that flow between rooms.

Letters: B rows, T tokens, I images, W windows, P patches of a window, C values of a patch.
Records are trees: JAX also rebuilds them around shardings, shapes and tracers, so their fields'
shapes are stated and not checked.
"""

from dataclasses import dataclass
from typing import Any

import jax

Array = Any
"""NumPy's on the host, JAX's on the device."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Images:
    """Images of one bucket of windows, window-major, as bytes.

    `grid` counts rows and columns of merged tokens; a padding image is (0, 0). Window `w` of an
    image is the `w`-th in raster order, and its patches lie in it where they lie in the picture,
    so the places of an image's edge that hold no patch can be told from `grid` alone.
    """

    pixels: Array  # uint8 [I, W, P, C]
    grid: Array  # int32 [I, 2]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """Rows of tokens: several episodes may share a row as segments; segment 0 is padding.

    `slots` is -1 at text, and at an image placeholder the index of its embedding among the flat
    slots that `encode_images` returns.
    """

    ids: Array  # int32 [B, T]
    positions: Array  # int32 [3, B, T]
    segments: Array  # int32 [B, T]
    slots: Array  # int32 [B, T]
