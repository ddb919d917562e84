"""A mini-batch as micro-batches of fixed shapes: rows of episodes, and the pictures they saw.

An episode is a segment of a row. It attends to itself alone, and nothing is cut. With shared
prompts, a record's prompt lies in a row once, without its last id, as one more segment, and the
record's episodes there follow it and attend to it. Each episode starts with that last id, from
which its first sampled id is predicted. Results and gradients are the same, and the prompt is
computed once.

Rows are filled over the whole mini-batch, by tokens alone, and then dealt to the shards. Rows of a
group stay together as far as every shard gets equally many. A shard's pictures are packed by
windows into micro-batches of their own, each distinct picture once. A picture whose rows lie on
several shards is encoded by each of them, so embeddings never leave their shard. Where an episode
or picture goes depends on lengths and order alone, and changes results by rounding only.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from lfpc_jax.processing.batch import empty_tokens
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.shapes import TrainShapes, windows_for
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

    @property
    def counting(self) -> int:
        """How many of its tokens have a weight."""
        return int(np.count_nonzero(self.weights))


@dataclass(eq=False)
class Row:
    """What lies in a row: the episodes of each record, and how many tokens are left."""

    room: int
    groups: dict[str, list[Item]] = field(default_factory=dict)

    def adds(self, item: Item, shared: bool) -> int:
        """The tokens that an episode would add. A prompt that lies here already adds none."""
        known = shared and item.trajectory.record in self.groups
        return len(item.trajectory.ids) - (item.begins if known else 0)

    def put(self, item: Item, shared: bool) -> None:
        self.room -= self.adds(item, shared)
        self.groups.setdefault(item.trajectory.record, []).append(item)

    @property
    def items(self) -> list[Item]:
        return [item for group in self.groups.values() for item in group]

    @property
    def counting(self) -> int:
        return sum(item.counting for item in self.items)


@dataclass(eq=False)
class PictureBin:
    """What lies on one shard of one micro-batch of pictures: the first window of each, and how
    many windows are left in each span."""

    span: int
    free: list[int]
    first: dict[Hashable, int] = field(default_factory=dict)
    pictures: dict[Hashable, SeenPicture] = field(default_factory=dict)

    @classmethod
    def empty(cls, shapes: TrainShapes, span: int) -> "PictureBin":
        return cls(span, [span] * (shapes.windows // span))

    def put(self, picture: SeenPicture, windows: int) -> bool:
        """Whether there was room for it."""
        fits = [at for at, left in enumerate(self.free) if left >= windows]
        if not fits:
            return False
        at = min(fits, key=self.free.__getitem__)
        self.first[picture.key] = (at + 1) * self.span - self.free[at]
        self.pictures[picture.key] = picture
        self.free[at] -= windows
        return True


@dataclass(frozen=True)
class Filling:
    """Tokens that lie in rows, and tokens that are computed; windows likewise."""

    tokens: int
    all_tokens: int
    windows: int
    all_windows: int


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """This process's shards of a mini-batch. `bins` are the pictures of each micro-batch, shard by
    shard."""

    rows: tuple[Batch, ...]
    bins: tuple[tuple[PictureBin, ...], ...]
    shapes: TrainShapes
    processor: ImageProcessor
    filling: Filling

    def having(self, name: Literal["old", "reference"], values: Sequence[Any]) -> "MiniBatch":
        """With log-probabilities for the tokens that count, by micro-batch of rows."""
        pairs = zip(self.rows, values, strict=True)
        return replace(self, rows=tuple(replace(rows, **{name: x}) for rows, x in pairs))

    def pictures(self) -> Iterator[PackedImages]:
        """The micro-batches of pictures. Each is laid out when it is asked for, since all of them
        would fill the host's memory."""
        for bins in self.bins:
            images = empty_pictures(self.shapes, self.processor, len(bins), bins[0].span)
            for shard, bin_ in enumerate(bins):
                for number, key in enumerate(bin_.first, start=1):
                    _write_picture(images, shard, number, bin_, key, self.processor)
            yield images


def pack(
    items: Sequence[Item],
    shapes: TrainShapes,
    processor: ImageProcessor,
    *,
    shards: int,
    image_token: int,
    agree: Callable[[Sequence[int]], Sequence[int]] = lambda sizes: sizes,
    version: int | None = None,
) -> MiniBatch:
    """Packs a mini-batch. This process fills `shards` shards of each micro-batch. `agree` returns
    the largest of each size that any process needs. With the `version` of the policy, the tokens
    of episodes that it drew alone are marked as fresh."""
    return lay_out(
        deal(fill(items, shapes), shards),
        shapes,
        processor,
        image_token=image_token,
        agree=agree,
        version=version,
    )


def fill(items: Sequence[Item], shapes: TrainShapes) -> list[Row]:
    """Puts every item into the row where it adds the fewest tokens and leaves the least room, the
    groups in their order, the longest of a group first."""
    rows: list[Row] = []
    for item in sorted(items, key=_by_group_and_length(items)):
        length = len(item.trajectory.ids)
        if length > shapes.row_tokens:
            raise ValueError(
                f"record {item.trajectory.record!r}: an episode of {length} ids does not fit a row "
                f"of {shapes.row_tokens}; raise row_tokens, or lower the rollout's capacity"
            )
        adds = [(row.adds(item, shapes.shared), row.room, row) for row in rows]
        fits = [(added, room, row) for added, room, row in adds if added <= room]
        if not fits:
            rows.append(Row(shapes.row_tokens))
        row = min(fits, key=lambda fit: fit[:2])[2] if fits else rows[-1]
        row.put(item, shapes.shared)
    return rows


def _by_group_and_length(items: Sequence[Item]) -> Callable[[Item], tuple[int, int]]:
    order: dict[str, int] = {}
    for item in items:
        order.setdefault(item.trajectory.record, len(order))
    return lambda item: (order[item.trajectory.record], -len(item.trajectory.ids))


def deal(rows: Sequence[Row], shards: int) -> list[list[Row]]:
    """The rows of each shard. Rows that follow each other stay together; no shard has more than
    one row more than another."""
    ends = [len(rows) * shard // shards for shard in range(shards + 1)]
    return [[*rows[start:stop]] for start, stop in itertools.pairwise(ends)]


def lay_out(
    shards: Sequence[Sequence[Row]],
    shapes: TrainShapes,
    processor: ImageProcessor,
    *,
    image_token: int,
    agree: Callable[[Sequence[int]], Sequence[int]] = lambda sizes: sizes,
    version: int | None = None,
) -> MiniBatch:
    """The rows of each shard, and their pictures, as micro-batches. Rows with more tokens that
    count than the usual places come first, as do pictures that fit no span."""
    rows = [sorted(rows, key=lambda row: row.counting <= shapes.places) for rows in shards]
    bins = [_picture_bins(rows, shapes, processor) for rows in rows]
    crowded = [sum(row.counting > shapes.places for row in rows) for rows in rows]
    wide = [sum(bin_.span > shapes.span for bin_ in of_shard) for of_shard in bins]
    needed = (
        -(-max(map(len, rows)) // shapes.rows),
        -(-max(crowded) // shapes.rows),
        max(len(of_shard) - n for of_shard, n in zip(bins, wide)),
        max(wide),
    )
    micro_batches, with_all_places, usual_bins, wide_bins = agree(needed)
    spans = [shapes.windows] * wide_bins + [shapes.span] * usual_bins
    placed = [_padded(of_shard, spans, shapes) for of_shard in bins]
    sizes = [
        shapes.all_places[-1 if micro < with_all_places else 0] for micro in range(micro_batches)
    ]
    made = [empty_rows(shapes, len(shards) * shapes.rows, places) for places in sizes]
    if version is not None:
        made = [replace(batch, fresh=np.zeros(batch.at.shape, bool)) for batch in made]
    for shard, of_shard in enumerate(rows):
        at = _first_index(placed[shard], shapes, processor)
        for number, row in enumerate(of_shard):
            micro, below = divmod(number, shapes.rows)
            index = shard * shapes.rows + below
            _write_row(made[micro], index, row, shapes, at, processor, image_token)
            if (fresh := made[micro].fresh) is not None:
                marks = [item.trajectory.drawn_by(version) for item in row.items]
                fresh[index, : row.counting] = np.repeat(marks, [i.counting for i in row.items])
    filling = Filling(
        sum(shapes.row_tokens - row.room for of_shard in rows for row in of_shard),
        micro_batches * len(shards) * shapes.rows * shapes.row_tokens,
        sum(shapes.windows - sum(bin_.free) for of_shard in placed for bin_ in of_shard),
        len(spans) * len(shards) * shapes.windows,
    )
    return MiniBatch(tuple(made), tuple(zip(*placed)), shapes, processor, filling)


# ---------------------------------------------------------------- pictures


def _picture_bins(
    rows: Sequence[Row], shapes: TrainShapes, processor: ImageProcessor
) -> list[PictureBin]:
    """Every distinct picture of the rows in the fullest bin that has room, the largest first."""
    seen = {p.key: p for row in rows for item in row.items for p in item.pictures}
    bins: list[PictureBin] = []
    sizes = {key: _windows(picture, processor) for key, picture in seen.items()}
    for key in sorted(seen, key=lambda key: -sizes[key]):
        if sizes[key] > shapes.windows:
            raise ValueError(
                f"a picture of {sizes[key]} windows does not fit a micro-batch of "
                f"{shapes.windows}; raise update.windows, or lower the budget of its tokens"
            )
        fullest = sorted(bins, key=lambda bin_: sum(bin_.free))
        if not any(bin_.put(seen[key], sizes[key]) for bin_ in fullest):
            span = shapes.span if sizes[key] <= shapes.span else shapes.windows
            bins.append(PictureBin.empty(shapes, span))
            bins[-1].put(seen[key], sizes[key])
    return bins


def _padded(
    bins: Sequence[PictureBin], spans: Sequence[int], shapes: TrainShapes
) -> list[PictureBin]:
    """A bin for each micro-batch, in the order of `spans`; those that are missing are empty."""
    by_span = {span: iter([b for b in bins if b.span == span]) for span in set(spans)}
    return [next(by_span[span], None) or PictureBin.empty(shapes, span) for span in spans]


def _first_index(
    bins: Sequence[PictureBin], shapes: TrainShapes, processor: ImageProcessor
) -> dict[Hashable, int]:
    """The index of every picture's first embedding among those of the shard."""
    return {
        key: (number * shapes.windows + first) * processor.window**2
        for number, bin_ in enumerate(bins)
        for key, first in bin_.first.items()
    }


def _windows(picture: SeenPicture, processor: ImageProcessor) -> int:
    return windows_for(*processor.grid_of(picture.pixels), processor.window)


def _write_picture(
    images: PackedImages,
    shard: int,
    number: int,
    bin_: PictureBin,
    key: Hashable,
    processor: ImageProcessor,
) -> None:
    picture = bin_.pictures[key]
    count = _windows(picture, processor)
    span, start = divmod(bin_.first[key], bin_.span)
    place = (shard, span, slice(start, start + count))
    images.pixels[place] = processor.patchify(picture.pixels, count)
    images.picture[place] = number
    images.grid[place] = processor.grid_of(picture.pixels)
    images.window[place] = np.arange(count)


# ---------------------------------------------------------------- rows


def _write_row(
    batch: Batch,
    index: int,
    row: Row,
    shapes: TrainShapes,
    first: dict[Hashable, int],
    processor: ImageProcessor,
    image_token: int,
) -> None:
    """Writes a row's groups one after another, each prompt before its episodes."""
    at, segment, counted = 0, 0, 0
    for items in row.groups.values():
        beginning = 0
        for item in items:
            ids = np.asarray(item.trajectory.ids)
            grids = [processor.grid_of(picture.pixels) for picture in item.pictures]
            positions, _ = mrope_positions(ids, grids, image_token)
            index_of = np.full(len(ids), -1, np.int32)
            if grids:
                of_pictures = [
                    first[picture.key] + processor.image_index(grid)
                    for picture, grid in zip(item.pictures, grids)
                ]
                index_of[ids == image_token] = np.concatenate(of_pictures)
            begins = item.begins if shapes.shared else 0
            parts = [slice(begins, len(ids))]
            if begins and not beginning:
                beginning = segment + 1
                parts = [slice(begins), *parts]
            for part in parts:
                segment += 1
                place = (index, slice(at, at + len(ids[part])))
                batch.tokens.ids[place] = ids[part]
                batch.tokens.segments[place] = segment
                if batch.tokens.prefix is not None:
                    batch.tokens.prefix[place] = beginning or segment
                batch.tokens.positions[:, index, place[1]] = positions[:, part]
                batch.tokens.image_index[place] = index_of[part]
                at += len(ids[part])
            counts = np.flatnonzero(item.weights)
            assert not len(counts) or counts[0] >= begins, item.trajectory.record
            kept = (index, slice(counted, counted + len(counts)))
            batch.at[kept] = counts + (at - len(ids))
            batch.weights[kept] = item.weights[counts]
            batch.advantages[kept] = item.advantage
            batch.sampler[kept] = item.trajectory.logprobs[counts]
            counted += len(counts)


def empty_rows(shapes: TrainShapes, count: int, places: int, *, xp: Any = np) -> Batch:
    """Rows of nothing but padding; see `processing.batch.empty_tokens` for `xp`."""
    counted = (count, places)
    return Batch(
        empty_tokens(count, shapes.row_tokens, prefix=shapes.shared, xp=xp),
        at=xp.zeros(counted, np.int32),
        weights=xp.zeros(counted, np.float32),
        advantages=xp.zeros(counted, np.float32),
        sampler=xp.zeros(counted, np.float32),
    )


def empty_pictures(
    shapes: TrainShapes, processor: ImageProcessor, shards: int, span: int, *, xp: Any = np
) -> PackedImages:
    """A micro-batch of padding in spans of so many windows."""
    packed = (shards, shapes.windows // span, span)
    return PackedImages(
        pixels=xp.zeros((*packed, *processor.window_shape), np.uint8),
        picture=xp.zeros(packed, np.int32),
        grid=xp.zeros((*packed, 2), np.int32),
        window=xp.zeros(packed, np.int32),
    )
