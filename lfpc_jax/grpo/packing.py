"""Episodes packed into the fixed rows of micro-batches.

An episode is a segment of a row. It attends to itself alone, and nothing is cut. With shared
prompts, a record's prompt lies in a row once, without its last id, as one more segment that all of
the record's episodes there attend to. Each episode starts with that last id, from which its first
sampled id is predicted. Results and gradients are the same, and the prompt is computed once.

Each shard of a micro-batch has some rows of tokens and some spans of windows. A picture that
several episodes there saw, as the image of a group, lies there once, within one span. Where an
episode goes depends on lengths and order alone, and changes results by rounding only.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from lfpc_jax.processing.batch import empty_tokens
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.shapes import TrainShapes, micro_batches_for, windows_for
from lfpc_jax.trajectory import Batch, PackedImages, Trajectory


@dataclass(frozen=True, eq=False)
class SeenPicture:
    """A picture as the model saw it. Within a batch, equal keys mean the same picture."""

    key: Hashable
    pixels: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True, eq=False)
class Item:
    """An episode to learn from: its pictures in the order of its ids, and the weight of each id in
    the loss. The first `prompt` ids are the same in every episode of its record."""

    trajectory: Trajectory
    pictures: tuple[SeenPicture, ...]
    advantage: float
    weights: Float32[np.ndarray, "T"]
    prompt: int = 0

    @property
    def begins(self) -> int:
        """How many ids of the prompt can be shared."""
        return max(0, self.prompt - 1)

    def length(self, row: Sequence["Item"]) -> int:
        """Tokens that this episode would add to `row`, not counting a prompt already there."""
        known = any(other.trajectory.record == self.trajectory.record for other in row)
        return len(self.trajectory.ids) - (self.begins if known else 0)


@dataclass(eq=False)
class Bin:
    """What lies on one shard of one micro-batch: the episodes of each row and the first window of
    each picture. `room` is what is left in each row, `free` what is left in each span."""

    shared: bool
    room: list[int]
    free: list[int]
    span: int
    rows: list[list[Item]]
    first: dict[Hashable, int] = field(default_factory=dict)
    pictures: dict[Hashable, SeenPicture] = field(default_factory=dict)

    @classmethod
    def empty(cls, shapes: TrainShapes, windows: int) -> "Bin":
        span = shapes.span_of(windows)
        room = [shapes.row_tokens] * shapes.rows
        return cls(shapes.shared, room, [span] * (windows // span), span, [[] for _ in room])

    @property
    def windows(self) -> int:
        """How many windows its bucket has; 0 if it holds no pictures."""
        return self.span * len(self.free) if self.first else 0


def pack(
    items: Sequence[Item],
    shapes: TrainShapes,
    processor: ImageProcessor,
    *,
    shards: int,
    image_token: int,
    agree: Callable[[Sequence[int]], Sequence[int]] = lambda sizes: sizes,
) -> tuple[Batch, Bool[np.ndarray, "M"]]:
    """A mini-batch, and which of its micro-batches hold anything. This process fills `shards`
    shards of each. `agree` returns the largest of each size that any process needs."""
    bins = fill(items, shapes, processor)
    needed = -(-len(bins) // shards), max((bin_.windows for bin_ in bins), default=0)
    micro_batches, windows = agree(needed)
    count = micro_batches_for(max(micro_batches, 1))
    batch = lay_out(
        bins,
        shapes,
        processor,
        shards=shards,
        micro_batches=count,
        windows=windows,
        image_token=image_token,
    )
    return batch, np.arange(count) < micro_batches


def fill(items: Sequence[Item], shapes: TrainShapes, processor: ImageProcessor) -> tuple[Bin, ...]:
    """Puts every item into the first bin that has room for it, the longest of a group first."""
    bins: list[Bin] = []
    shared: list[Bin] = []
    for item in sorted(items, key=_by_group_and_length(items)):
        length = len(item.trajectory.ids)
        if length > shapes.row_tokens:
            raise ValueError(
                f"record {item.trajectory.record!r}: an episode of {length} ids does not fit a row "
                f"of {shapes.row_tokens}; raise row_tokens, or lower the rollout's capacity"
            )
        nearest = shared
        if shapes.shared:  # where its prompt lies already comes first
            nearest = sorted(shared, key=partial(_lacks, item))
        if not any(_put(item, candidate, processor) for candidate in nearest):
            bins.append(_alone(item, shapes, processor))
            if bins[-1].windows <= shapes.windows.sizes[0]:
                shared.append(bins[-1])
    return tuple(bins)


def _alone(item: Item, shapes: TrainShapes, processor: ImageProcessor) -> Bin:
    """A bin with this item, of the smallest bucket that holds it."""
    for windows in shapes.windows.sizes:
        new = Bin.empty(shapes, windows)
        if _put(item, new, processor):
            return new
    needed = sum(_windows(picture, processor) for picture in item.pictures)
    raise ValueError(
        f"record {item.trajectory.record!r}: the pictures of an episode take {needed} windows, the "
        f"largest bucket has {shapes.windows.sizes[-1]}; add a larger bucket, or lower the "
        "rollout's image_tokens, crop_tokens or max_turns"
    )


def _by_group_and_length(items: Sequence[Item]) -> Callable[[Item], tuple[int, int]]:
    order: dict[str, int] = {}
    for item in items:
        order.setdefault(item.trajectory.record, len(order))
    return lambda item: (order[item.trajectory.record], -len(item.trajectory.ids))


def _put(item: Item, into: Bin, processor: ImageProcessor) -> bool:
    whole = len(item.trajectory.ids)
    adds = [item.length(row) if into.shared else whole for row in into.rows]
    fits = [row for row, room in enumerate(into.room) if room >= adds[row]]
    if not fits:
        return False
    row = min(fits, key=adds.__getitem__)
    new = {picture.key: picture for picture in item.pictures if picture.key not in into.first}
    free, first = [*into.free], {}
    for key, picture in new.items():
        windows = _windows(picture, processor)
        at = next((at for at, left in enumerate(free) if left >= windows), None)
        if at is None:
            return False
        first[key] = (at + 1) * into.span - free[at]
        free[at] -= windows
    into.free = free
    into.first |= first
    into.pictures |= new
    into.rows[row].append(item)
    into.room[row] -= adds[row]
    return True


def _lacks(item: Item, bin_: Bin) -> bool:
    """Whether the bin holds no other episode of the item's record."""
    return all(item.length(row) == len(item.trajectory.ids) for row in bin_.rows)


def _windows(picture: SeenPicture, processor: ImageProcessor) -> int:
    return windows_for(*processor.grid_of(picture.pixels), processor.window)


def lay_out(
    bins: Sequence[Bin],
    shapes: TrainShapes,
    processor: ImageProcessor,
    *,
    shards: int,
    micro_batches: int,
    windows: int,
    image_token: int,
) -> Batch:
    """The bins as arrays `[micro_batches, ...]`. The bins fill the shards of a micro-batch, then
    those of the next. With 0 `windows` there are no images."""
    assert len(bins) <= shards * micro_batches
    batch = empty_batch(
        shapes, processor, shards=shards, micro_batches=micro_batches, windows=windows
    )
    for number, bin_ in enumerate(bins):
        micro, shard = divmod(number, shards)
        for row, items in enumerate(bin_.rows):
            _write_row(batch, micro, shard * shapes.rows + row, items, bin_, processor, image_token)
        for at, (key, first) in enumerate(bin_.first.items(), start=1):
            _write_picture(batch, (micro, shard), at, first, bin_.pictures[key], processor)
    return batch


def _write_row(
    batch: Batch,
    micro: int,
    row: int,
    items: Sequence[Item],
    bin_: Bin,
    processor: ImageProcessor,
    image_token: int,
) -> None:
    at, segment = 0, 0
    beginnings: dict[str, int] = {}
    for item in items:
        ids = np.asarray(item.trajectory.ids)
        grids = [processor.grid_of(picture.pixels) for picture in item.pictures]
        positions, _ = mrope_positions(ids, grids, image_token)
        places = np.full(len(ids), -1, np.int32)
        if grids:
            of_pictures = [
                bin_.first[picture.key] * processor.window**2 + processor.places(grid)
                for picture, grid in zip(item.pictures, grids)
            ]
            places[ids == image_token] = np.concatenate(of_pictures)
        begins, record = item.begins if bin_.shared else 0, item.trajectory.record
        parts = [slice(begins, len(ids))]
        if begins and record not in beginnings:
            beginnings[record] = segment + 1
            parts = [slice(begins), *parts]
        for part in parts:
            segment += 1
            stop = at + len(ids[part])
            place = (micro, row, slice(at, stop))
            batch.tokens.ids[place] = ids[part]
            batch.tokens.segments[place] = segment
            if batch.tokens.prefix is not None:
                batch.tokens.prefix[place] = beginnings.get(record, segment)
            batch.tokens.positions[micro, :, row, at:stop] = positions[:, part]
            batch.tokens.places[place] = places[part]
            batch.weights[place] = item.weights[part]
            batch.advantages[place] = item.advantage
            batch.sampler[place] = item.trajectory.logprobs[part]
            at = stop


def _write_picture(
    batch: Batch,
    shard: tuple[int, int],
    number: int,
    first: int,
    picture: SeenPicture,
    processor: ImageProcessor,
) -> None:
    count = _windows(picture, processor)
    assert batch.images is not None
    span, start = divmod(first, batch.images.picture.shape[-1])
    place = (*shard, span, slice(start, start + count))
    batch.images.pixels[place] = processor.patchify(picture.pixels, count)
    batch.images.picture[place] = number
    batch.images.grid[place] = processor.grid_of(picture.pixels)
    batch.images.window[place] = np.arange(count)


def empty_batch(
    shapes: TrainShapes,
    processor: ImageProcessor,
    *,
    shards: int,
    micro_batches: int,
    windows: int,
    xp: Any = np,
) -> Batch:
    """Micro-batches of nothing but padding; see `processing.batch.empty_tokens` for `xp`."""
    rows = (micro_batches, shards * shapes.rows, shapes.row_tokens)
    images = None
    if windows:
        span = shapes.span_of(windows)
        packed = (micro_batches, shards, windows // span, span)
        images = PackedImages(
            pixels=xp.zeros((*packed, *processor.window_shape), np.uint8),
            picture=xp.zeros(packed, np.int32),
            grid=xp.zeros((*packed, 2), np.int32),
            window=xp.zeros(packed, np.int32),
        )
    return Batch(
        empty_tokens(*rows, prefix=shapes.shared, xp=xp),
        images,
        weights=xp.zeros(rows, np.float32),
        advantages=xp.zeros(rows, np.float32),
        sampler=xp.zeros(rows, np.float32),
    )
