"""Positions for Qwen2.5-VL's multimodal rotary embedding: time, row and column of every token.

A text token has the same position on all three axes, and the next token's is 1 higher. The tokens
of an image that begins at p have the time p and lie at p + row and p + column. The token after the
image continues at p plus the longer side of the grid.

Deviation from transformers: images are separated by their token counts, not by runs of
placeholders. So two images without text between them keep their own positions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32


def mrope_positions(
    ids: Int[np.ndarray, "T"],
    grids: Sequence[tuple[int, int]],
    image_token_id: int,
    start: int = 0,
) -> tuple[Int32[np.ndarray, "3 T"], int]:
    """The positions of one unpadded row of ids, and the position that follows the row.

    `grids` holds the merged (rows, columns) of each image in order of appearance. A row may be
    given in pieces: each piece begins at the position that followed the one before. An image must
    lie whole in one piece.
    """
    firsts = _image_starts(ids, grids, image_token_id)
    step = np.ones(len(ids), np.int64)
    for first, (rows, cols) in zip(firsts, grids):
        step[first : first + rows * cols] = 0
        step[first] = max(rows, cols)
    ends = start + np.cumsum(step)
    positions = np.broadcast_to(ends - step, (3, len(ids))).astype(np.int32)
    for first, (rows, cols) in zip(firsts, grids):
        block = slice(first, first + rows * cols)
        origin = positions[0, first]
        positions[0, block] = origin
        positions[1, block] = origin + np.repeat(np.arange(rows), cols)
        positions[2, block] = origin + np.tile(np.arange(cols), rows)
    return positions, int(ends[-1]) if len(ids) else start


def _image_starts(
    ids: np.ndarray, grids: Sequence[tuple[int, int]], image_token_id: int
) -> list[int]:
    """Where each image's placeholders begin. Raises ValueError if a block of placeholders is not
    whole."""
    places = np.flatnonzero(ids == image_token_id)
    starts, used = [], 0
    for index, (rows, cols) in enumerate(grids):
        count = rows * cols
        block = places[used : used + count]
        if not 0 < len(block) == count or block[-1] - block[0] != count - 1:
            raise ValueError(
                f"image {index} of grid {(rows, cols)} needs {count} placeholders in one block, "
                f"but the next {len(block)} of the {len(places)} in these {len(ids)} ids begin at "
                f"{block[:1].tolist()} and end at {block[-1:].tolist()}; never cut an image in two"
            )
        starts.append(int(block[0]))
        used += count
    if used < len(places):
        raise ValueError(
            f"{len(places) - used} image placeholders too many, from index {places[used]} on: the "
            f"{len(grids)} grids account for {used} of {len(places)}; give every image its grid"
        )
    return starts
