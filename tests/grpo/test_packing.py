"""Rows, windows and shards: nothing is cut, mixed or shown twice."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpc_jax.grpo.items import items_of
from lfpc_jax.grpo.packing import fill, pack
from lfpc_jax.model.packed_sequences import gaps_filled, in_order
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.positions import mrope_positions
from lfpc_jax.shapes import Buckets, TrainShapes, micro_batches_for, windows_for
from support import random_groups
from support.reference import IMAGE

PROCESSOR = ImageProcessor()


def items(seed, sizes=(3, 4, 2)):
    scored = [
        random_groups.rewarded(g, [float(i) for i in range(len(g.trajectories))])
        for g in random_groups.groups(seed, sizes)
    ]
    return items_of(scored, aggregate="token", episodes=9, tokens=90, all_of_them=True)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 50),
    st.integers(1, 3),
    st.integers(0, 100),
    st.integers(1, 3),
    st.sampled_from([((14,), 0), ((6, 14), 0), ((20,), 0), ((8, 14), 4), ((6, 14), 2)]),
    st.booleans(),
)
def test_every_episode_is_found_again_whole(seed, rows, room, shards, spans, shared):
    """In rows with so much room beyond the longest episode."""
    windows, span = spans
    found = items(seed)
    length = room + max(len(item.trajectory.ids) for item in found)
    shapes = TrainShapes(length, rows, Buckets(windows), span, shared)
    batch, real = pack(found, shapes, PROCESSOR, shards=shards, image_token=IMAGE)
    tokens = batch.tokens
    assert tokens.ids.shape == (len(real), shards * rows, length)
    assert not tokens.segments[~real].any()
    seen = {}
    for micro, row in np.ndindex(tokens.ids.shape[:2]):
        segments = tokens.segments[micro, row]
        prefix = tokens.prefix[micro, row] if shared else segments
        begun = set(prefix[prefix != segments])
        for segment in set(range(1, segments.max() + 1)) - begun:
            (at,) = np.nonzero(segments == segment)
            assert (np.diff(at) == 1).all()
            [before] = set(prefix[at])
            if before != segment:
                (prompt,) = np.nonzero(segments == before)
                assert set(prefix[prompt]) == {before}
                assert prompt[-1] < at[0]
                at = np.concatenate([prompt, at])
            seen[tokens.ids[micro, row, at].tobytes()] = (micro, row, at)
    assert len(seen) == len(found)
    for item in found:
        micro, row, at = seen[np.asarray(item.trajectory.ids).tobytes()]
        np.testing.assert_array_equal(batch.weights[micro, row, at], item.weights)
        np.testing.assert_array_equal(batch.sampler[micro, row, at], item.trajectory.logprobs)
        counts = at[item.weights > 0]
        assert (batch.advantages[micro, row, counts] == np.float32(item.advantage)).all()
        grids = [PROCESSOR.grid_of(one.pixels) for one in item.pictures]
        positions, _ = mrope_positions(item.trajectory.ids, grids, IMAGE)
        np.testing.assert_array_equal(tokens.positions[micro, :, row, at].T, positions)
        shown = tokens.places[micro, row, at]
        assert ((shown >= 0) == (item.trajectory.ids == IMAGE)).all()
        check_pictures(batch, micro, row // rows, item, grids, shown[shown >= 0])


def check_pictures(batch, micro, shard, item, grids, places):
    """Each slot lies in a window of its own picture, whose patches are that picture's."""
    images = batch.images
    span = images.picture.shape[-1]
    done = 0
    for one, grid in zip(item.pictures, grids):
        own = places[done : done + grid[0] * grid[1]]
        done += len(own)
        at = np.unique(own // 16)
        assert len(at) == windows_for(*grid)
        assert (np.diff(at) == 1).all()
        assert at[0] // span == at[-1] // span
        place = (micro, shard, at // span, at % span)
        assert len(set(images.picture[place].tolist())) == 1
        assert images.picture[place][0] > 0
        np.testing.assert_array_equal(images.window[place], np.arange(len(at)))
        assert (images.grid[place] == grid).all()
        expected = PROCESSOR.patchify(one.pixels, len(at))
        np.testing.assert_array_equal(images.pixels[place], expected)


def test_a_groups_picture_lies_once_on_a_shard():
    found = [item for item in items(0, (6, 1)) if item.trajectory.record == "g0"]
    [one] = fill(found, TrainShapes(600, 1, Buckets((200,))), PROCESSOR)
    crops = sum(len(item.pictures) - 1 for item in found)
    assert len(one.first) == 1 + crops
    assert len(one.rows[0]) == 6


def test_a_prompt_lies_once_in_a_row():
    found = [item for item in items(0, (6, 1)) if item.trajectory.record == "g0"]
    prompt = found[0].prompt
    assert prompt > 3
    lengths = [len(item.trajectory.ids) for item in found]
    room = sum(lengths) - 5 * (prompt - 1)
    shapes = TrainShapes(room, 1, Buckets((200,)), shared=True)
    [one] = fill(found, shapes, PROCESSOR)
    assert one.room == [0]
    batch, _ = pack(found, shapes, PROCESSOR, shards=1, image_token=IMAGE)
    at = np.flatnonzero(batch.tokens.segments[0, 0] == 1)
    np.testing.assert_array_equal(batch.tokens.ids[0, 0, at], found[0].trajectory.ids[: len(at)])
    assert len(at) == prompt - 1


def test_a_large_bucket_serves_an_episode_that_needs_it_alone():
    found = items(0)
    needs = [sum(windows_for(*PROCESSOR.grid_of(p.pixels)) for p in i.pictures) for i in found]
    bins = fill(found, TrainShapes(200, 4, Buckets((max(needs) - 1, 60))), PROCESSOR)
    large = [one for one in bins if one.windows == 60]
    assert all(sum(map(len, one.rows)) == 1 for one in large)
    assert len(large) == needs.count(max(needs))


def test_what_fits_nowhere_is_refused_by_name():
    found = items(0)
    with pytest.raises(ValueError, match=r"'g0': an episode of \d+ ids does not fit a row of 20"):
        fill(found, TrainShapes(20, 1, Buckets((30,))), PROCESSOR)
    with pytest.raises(ValueError, match=r"'g0': the pictures of an episode take \d+ windows"):
        fill(found, TrainShapes(300, 1, Buckets((1,))), PROCESSOR)


def test_no_pictures_are_no_images_unless_another_process_has_some():
    found = [item for item in items(0, (3, 4)) if not item.pictures]
    assert found
    shapes = TrainShapes(100, 2, Buckets((4,)))
    batch, _ = pack(found, shapes, PROCESSOR, shards=1, image_token=IMAGE)
    assert batch.images is None
    batch, real = pack(found, shapes, PROCESSOR, shards=1, image_token=IMAGE,
                       agree=lambda own: [3, 4])  # fmt: skip
    assert batch.images is not None
    assert batch.images.pixels.shape[:4] == (4, 1, 1, 4)
    assert real.tolist() == [True, True, True, False]


def test_a_process_with_nothing_at_all_still_has_the_shapes_of_the_others():
    batch, real = pack([], TrainShapes(100, 2, Buckets((4,))), PROCESSOR, shards=2,
                       image_token=IMAGE, agree=lambda own: [2, 4])  # fmt: skip
    assert batch.tokens.ids.shape == (4, 4, 100)
    assert real.sum() == 2
    assert not batch.weights.any()


@pytest.mark.parametrize(("n", "count"), [(1, 1), (2, 4), (4, 4), (5, 16), (16, 16), (17, 64)])
def test_numbers_of_micro_batches(n, count):
    assert micro_batches_for(n) == count


@pytest.mark.compiles
@pytest.mark.parametrize("shared", [True, False])
def test_rows_and_pictures_are_in_the_order_that_cudnn_needs(shared):
    for seed in range(3):
        found = items(seed, sizes=(3, 1, 4, 2, 3))
        length = 2 * max(len(item.trajectory.ids) for item in found)
        shapes = TrainShapes(length, 2, Buckets((14,)), 0, shared)
        batch, _ = pack(found, shapes, PROCESSOR, shards=1, image_token=IMAGE)
        segments, prefix, pictures = (
            x if x is None else jnp.asarray(x.reshape(-1, x.shape[-1]))
            for x in (batch.tokens.segments, batch.tokens.prefix, batch.images.picture)
        )
        assert in_order(segments, prefix).all()
        assert (gaps_filled(pictures) == pictures).all()
        assert in_order(pictures, None).all()
        assert (segments.max(axis=1) > 1).any()
        assert (pictures.max(axis=1) > 1).any()
