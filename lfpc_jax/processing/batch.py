"""Prompts of ids and resized pictures, laid out as the arrays that the model takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.trajectory import Images, Tokens


def empty_tokens(*shape: int, prefix: bool = False, xp: Any = np) -> Tokens:
    """Rows that hold only padding: [B, T], or [M, B, T] for several micro-batches. With `prefix`,
    segments of the rows may share a prompt.

    `xp` makes the arrays, here and in the functions below. With NumPy they can be written into.
    With `jax.numpy`, under `jax.eval_shape`, only their shapes are computed.
    """
    return Tokens(
        ids=xp.zeros(shape, np.int32),
        positions=xp.zeros((*shape[:-2], 3, *shape[-2:]), np.int32),
        segments=xp.zeros(shape, np.int32),
        image_index=xp.full(shape, -1, np.int32),
        prefix=xp.zeros(shape, np.int32) if prefix else None,
    )


def empty_images(count: int, windows: int, processor: ImageProcessor, *, xp: Any = np) -> Images:
    """A bucket of padding images."""
    return Images(
        pixels=xp.zeros((count, windows, *processor.window_shape), np.uint8),
        grid=xp.zeros((count, 2), np.int32),
    )


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
    """One prompt in each row, padded at its end to `length`. All pictures go into one bucket of
    `windows`. If `images` is given, empty pictures are added up to that number. Without pictures
    and without `images`, no images are returned."""
    tokens = empty_tokens(len(ids), length)
    done = 0
    for row, (prompt, of_prompt) in enumerate(zip(ids, pictures, strict=True)):
        n = len(prompt)
        if n > length:
            raise ValueError(
                f"prompt {row} has {n} tokens, its row {length}: take a longer bucket or a "
                "smaller visual-token budget; prompts are never cut"
            )
        grids = [processor.grid_of(picture) for picture in of_prompt]
        tokens.ids[row, :n] = prompt
        tokens.segments[row, :n] = 1
        tokens.positions[:, row, :n], _ = mrope_positions(prompt, grids, image_token)
        place = done * windows * processor.window**2
        indices = [
            place + i * windows * processor.window**2 + processor.image_index(grid)
            for i, grid in enumerate(grids)
        ]
        if indices:
            tokens.image_index[row, :n][prompt == image_token] = np.concatenate(indices)
        done += len(of_prompt)
    flat = [picture for of_prompt in pictures for picture in of_prompt]
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
    bucket = empty_images(count, windows, processor)
    for i, picture in enumerate(pictures):
        bucket.grid[i] = processor.grid_of(picture)
        bucket.pixels[i] = processor.patchify(picture, windows)
    return bucket
