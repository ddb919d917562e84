"""Prompts of ids and resized pictures, laid out as the arrays that the model takes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8

from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.trajectory import Images, Tokens


def collate(
    ids: Sequence[Int[np.ndarray, "_"]],
    pictures: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    *,
    processor: ImageProcessor,
    image_token: int,
    length: int,
    windows: int,
    images: int | None = None,
) -> tuple[Tokens, Images | None]:
    """One prompt a row, padded at its end to `length`; all pictures in one bucket of `windows`,
    padded with empty ones to `images` where that is given. Without either, no images."""
    tokens = Tokens(
        ids=np.zeros((len(ids), length), np.int32),
        positions=np.zeros((3, len(ids), length), np.int32),
        segments=np.zeros((len(ids), length), np.int32),
        places=np.full((len(ids), length), -1, np.int32),
    )
    done = 0
    for row, (prompt, shown) in enumerate(zip(ids, pictures, strict=True)):
        n = len(prompt)
        if n > length:
            raise ValueError(
                f"prompt {row} has {n} tokens, its row {length}: take a longer bucket or a "
                "smaller visual-token budget; prompts are never cut"
            )
        grids = [processor.grid_of(picture) for picture in shown]
        tokens.ids[row, :n] = prompt
        tokens.segments[row, :n] = 1
        tokens.positions[:, row, :n], _ = mrope_positions(prompt, grids, image_token)
        place = done * windows * processor.window**2
        places = [
            place + i * windows * processor.window**2 + processor.places(grid)
            for i, grid in enumerate(grids)
        ]
        if places:
            tokens.places[row, :n][prompt == image_token] = np.concatenate(places)
        done += len(shown)
    flat = [picture for shown in pictures for picture in shown]
    return tokens, stack_images(flat, processor=processor, windows=windows, images=images)


def stack_images(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    *,
    processor: ImageProcessor,
    windows: int,
    images: int | None = None,
) -> Images | None:
    """A bucket of pictures, padded with empty ones to `images`."""
    count = len(pictures) if images is None else images
    if len(pictures) > count:
        raise ValueError(
            f"{len(pictures)} pictures for {count} places: raise the batch's number of images"
        )
    if not count:
        return None
    patches = (processor.window * processor.merge) ** 2
    pixels = np.zeros((count, windows, patches, 3 * processor.patch**2), np.uint8)
    grid = np.zeros((count, 2), np.int32)
    for i, picture in enumerate(pictures):
        grid[i] = processor.grid_of(picture)
        pixels[i] = processor.patchify(picture, windows)
    return Images(pixels=pixels, grid=grid)
