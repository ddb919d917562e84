"""Episodes to pack, and whether all that was packed is there: counted from the arrays."""

from collections import defaultdict
from dataclasses import astuple, replace

import numpy as np

from lfpc_jax.grpo.items import items_of
from lfpc_jax.grpo.packing import Item, SeenPicture, pack
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.shapes import TrainShapes, windows_for
from lfpc_jax.trajectory import Trajectory
from support import random_groups
from support.reference import IMAGE

PROCESSOR = ImageProcessor()
SHAPES = TrainShapes(200, 2, places=50, windows=24, span=8)
SHARED = replace(SHAPES, shared=True)


def items(seed, sizes=(3, 4, 2)):
    scored = [
        random_groups.rewarded(g, [float(i) for i in range(len(g.trajectories))])
        for g in random_groups.groups(seed, sizes)
    ]
    return items_of(scored, aggregate="token", episodes=9, tokens=90, all_of_them=True)


def packed(found, shapes, shards=1, **more):
    return pack(found, shapes, PROCESSOR, shards=shards, image_token=IMAGE, **more)


def sizes(mini_batch):
    """The places of each micro-batch of rows, and the span of each of pictures."""
    return (
        [rows.at.shape[1] for rows in mini_batch.rows],
        [images.picture.shape[2] for images in mini_batch.pictures()],
    )


def in_windows(*counts):
    """An episode for each count of windows, with one picture so wide."""
    found = []
    for number, count in enumerate(counts):
        pixels = np.full((28, 112 * count, 3), number, np.uint8)
        ids = np.r_[1000 + number, np.full(4 * count, IMAGE), 6, 7].astype(np.int32)
        found.append(episode(f"e{number}", ids, 2, (SeenPicture(number, pixels),)))
    return found


def episode(record, ids, sampled, pictures=(), prompt=0, rollout=0):
    """Its last `sampled` ids count."""
    mask = np.arange(len(ids)) >= len(ids) - sampled
    logprobs = np.where(mask, -1.0 - np.arange(len(ids)), 0).astype(np.float32)
    trajectory = Trajectory(
        record=record, rollout=rollout, ids=np.asarray(ids, np.int32), sampled=mask,
        logprobs=logprobs, policy_logprobs=logprobs, original=(0, 0), shown=(0, 0), turns=(),
        end="answered", answer=None,
    )  # fmt: skip
    weights = np.where(mask, 0.01 * (1 + rollout), 0).astype(np.float32)
    return Item(trajectory, tuple(pictures), 1.0 + rollout, weights, prompt)


def episodes_in(mini_batch):
    """Every episode that lies in the rows, found by its segments: its ids to where its tokens
    lie."""
    seen = {}
    for micro, rows in enumerate(mini_batch.rows):
        tokens = rows.tokens
        for row, segments in enumerate(tokens.segments):
            prefix = segments if tokens.prefix is None else tokens.prefix[row]
            prompts = set(prefix[prefix != segments])
            for segment in set(range(1, segments.max() + 1)) - prompts:
                (at,) = np.nonzero(segments == segment)
                assert (np.diff(at) == 1).all()
                [before] = set(prefix[at])
                if before != segment:
                    (prompt,) = np.nonzero(segments == before)
                    assert (np.diff(prompt) == 1).all()
                    assert set(prefix[prompt]) == {before}
                    assert prompt[-1] < at[0]
                    at = np.concatenate([prompt, at])
                key = tokens.ids[row, at].tobytes()
                assert key not in seen
                seen[key] = (micro, row, at)
    return seen


def check_all_there(mini_batch, found, shards):
    """Every item once and whole, with its pictures, and nothing else."""
    shapes, seen, pictures = mini_batch.shapes, episodes_in(mini_batch), [*mini_batch.pictures()]
    assert len(seen) == len(found)
    counting = defaultdict(int)
    for item in found:
        micro, row, at = seen[np.asarray(item.trajectory.ids).tobytes()]
        rows, shard = mini_batch.rows[micro], row // shapes.rows
        counts = np.flatnonzero(item.weights)
        where = np.flatnonzero(np.isin(rows.at[row], at[counts]) & (rows.weights[row] > 0))
        np.testing.assert_array_equal(rows.at[row, where], at[counts])
        np.testing.assert_array_equal(rows.weights[row, where], item.weights[counts])
        np.testing.assert_array_equal(rows.sampler[row, where], item.trajectory.logprobs[counts])
        assert (rows.advantages[row, where] == np.float32(item.advantage)).all()
        counting[micro, row] += len(counts)
        grids = [PROCESSOR.grid_of(picture.pixels) for picture in item.pictures]
        positions, _ = mrope_positions(item.trajectory.ids, grids, IMAGE)
        np.testing.assert_array_equal(rows.tokens.positions[:, row, at], positions)
        shown = rows.tokens.image_index[row, at]
        assert ((shown >= 0) == (item.trajectory.ids == IMAGE)).all()
        check_pictures(pictures, shapes, shard, item, grids, shown[shown >= 0])
    for micro, rows in enumerate(mini_batch.rows):
        assert rows.tokens.ids.shape == (shards * shapes.rows, shapes.row_tokens)
        assert rows.at.shape[1] in shapes.all_places
        for row in range(len(rows.at)):
            assert (rows.weights[row] > 0).sum() == counting[micro, row]


def check_pictures(pictures, shapes, shard, item, grids, places):
    """Each place lies in a window of its own picture, whose patches are that picture's."""
    done = 0
    for picture, grid in zip(item.pictures, grids):
        own = places[done : done + grid[0] * grid[1]]
        done += len(own)
        at = np.unique(own // 16)
        assert len(at) == windows_for(*grid)
        assert (np.diff(at) == 1).all()
        [number] = set(at // shapes.windows)
        images, inside = pictures[number], at % shapes.windows
        span = images.picture.shape[-1]
        assert inside[0] // span == inside[-1] // span
        place = (shard, inside // span, inside % span)
        assert len(set(images.picture[place].tolist())) == 1
        assert images.picture[place][0] > 0
        np.testing.assert_array_equal(images.window[place], np.arange(len(at)))
        assert (images.grid[place] == grid).all()
        expected = PROCESSOR.patchify(picture.pixels, len(at))
        np.testing.assert_array_equal(images.pixels[place], expected)


def check_filling(mini_batch, shards):
    """By counting what lies in the arrays."""
    shapes = mini_batch.shapes
    tokens = [rows.tokens.segments > 0 for rows in mini_batch.rows]
    windows = [images.picture > 0 for images in mini_batch.pictures()]
    assert astuple(mini_batch.filling) == (
        sum(map(np.sum, tokens)),
        sum(map(np.size, tokens)),
        sum(map(np.sum, windows)),
        sum(map(np.size, windows)),
    )
    assert mini_batch.filling.all_windows == len(windows) * shards * shapes.windows
