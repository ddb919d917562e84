"""Rows, pictures and shards: nothing is cut, mixed or encoded twice, and rows are full."""

import itertools
from collections import defaultdict
from dataclasses import astuple, replace

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpc_jax.grpo.packing import SeenPicture, deal, fill
from lfpc_jax.model.packed_sequences import gaps_filled, in_order
from lfpc_jax.shapes import TrainShapes, micro_batches_for
from support.packed import (
    SHAPES,
    SHARED,
    check_all_there,
    check_filling,
    episode,
    in_windows,
    items,
    packed,
    sizes,
)
from support.reference import IMAGE


@pytest.mark.seconds
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 50),
    rows=st.integers(1, 3),
    room=st.integers(0, 100),
    shards=st.integers(1, 5),
    places=st.sampled_from([1, 12, 40, 1000]),
    windows=st.sampled_from([(14, 14), (4, 4), (4, 2), (12, 4), (8, 2), (6, 1)]),
    shared=st.booleans(),
)
def test_every_episode_is_found_again_whole(seed, rows, room, shards, places, windows, shared):
    """In rows with so much room beyond the longest episode."""
    found = items(seed)
    length = room + max(len(item.trajectory.ids) for item in found)
    shapes = TrainShapes(length, rows, min(places, length), *windows, shared)
    mini_batch = packed(found, shapes, shards)
    check_all_there(mini_batch, found, shards)
    check_filling(mini_batch, shards)
    keys = [[*bin_.first] for bins in mini_batch.bins for bin_ in bins]
    for shard in range(shards):
        own = [*itertools.chain.from_iterable(keys[shard::shards])]
        assert len(set(own)) == len(own), "no picture twice on a shard"
    assert set(itertools.chain.from_iterable(keys)) == {p.key for i in found for p in i.pictures}


DRAWN = st.lists(
    st.tuples(
        st.booleans(),  # whether it shows the picture that several groups do
        st.integers(1, 20),  # the prompt's text
        st.lists(  # episodes: the columns of their own pictures, and what they sample
            st.tuples(st.lists(st.integers(1, 12), max_size=2), st.integers(1, 30)),
            min_size=1,
            max_size=5,
        ),
    ),
    min_size=1,
    max_size=4,
)


def drawn_items(drawn):
    """Groups with a prompt in common; every id of text is another."""
    tokens = itertools.count(1000)
    common = SeenPicture("common", np.full((56, 84, 3), 7, np.uint8))
    found = []
    for group, (shows, text, episodes) in enumerate(drawn):
        shown = [common] * shows
        prompt = [next(tokens), *[IMAGE] * 6 * shows, *(next(tokens) for _ in range(text))]
        for rollout, (columns, sampled) in enumerate(episodes):
            ids, crops = [*prompt], []
            for number, wide in enumerate(columns):
                pixels = np.full((28, 28 * wide, 3), rollout + number, np.uint8)
                crops.append(SeenPicture((group, rollout, number), pixels))
                ids += [next(tokens), *[IMAGE] * wide, next(tokens)]
            ids += [next(tokens) for _ in range(sampled)]
            pictures = (*shown, *crops)
            found.append(episode(f"g{group}", ids, sampled, pictures, len(prompt), rollout))
    return found


@pytest.mark.seconds
@settings(deadline=None, max_examples=60)
@given(DRAWN, st.integers(1, 4), st.integers(1, 2), st.booleans(), st.integers(1, 40))
def test_random_episodes_lie_in_rows_whole_and_once(drawn, shards, rows, shared, places):
    found = drawn_items(drawn)
    length = max(len(item.trajectory.ids) for item in found) + 10
    shapes = TrainShapes(length, rows, places, windows=6, span=2, shared=shared)
    mini_batch = packed(found, shapes, shards)
    check_all_there(mini_batch, found, shards)
    check_filling(mini_batch, shards)


@settings(deadline=None, max_examples=60)
@given(DRAWN, st.integers(0, 80), st.integers(1, 5))
def test_a_group_s_episodes_follow_its_prompt(drawn, room, shards):
    """In a row a group's prompt lies once, and its episodes right after it. A shard's rows are a
    run of those that were filled, and no shard has more than one row more than another."""
    found = drawn_items(drawn)
    length = max(len(item.trajectory.ids) for item in found) + room
    shapes = TrainShapes(length, 1, length, windows=3, span=3, shared=True)
    rows = fill(found, shapes)
    dealt = deal(rows, shards)
    assert [*itertools.chain.from_iterable(dealt)] == rows
    counts = [*map(len, dealt)]
    assert max(counts) - min(counts) <= 1
    mini_batch = packed(found, shapes, shards)
    for batch in mini_batch.rows:
        for segments, prefix in zip(batch.tokens.segments, batch.tokens.prefix):
            used = segments[segments > 0]
            assert (segments[len(used) :] == 0).all(), "tokens lie at the beginning of a row"
            assert (np.diff(used) >= 0).all()
            blocks = [block for block, _ in itertools.groupby(prefix[prefix > 0].tolist())]
            assert len(blocks) == len(set(blocks)), "one block for each prompt"
    for row in rows:
        prompts = sum(items[0].begins for items in row.groups.values())
        own = sum(len(i.trajectory.ids) - i.begins for i in row.items)
        assert prompts + own + row.room == length


def test_rows_are_full_over_the_whole_mini_batch():
    """Episodes of one group are put where others have left room."""
    lengths = {"a": (60, 60), "b": (40, 35), "c": (5,)}
    found = [
        episode(record, 1000 + np.arange(length) + 10 * number, 1, rollout=number)
        for record, of_group in lengths.items()
        for number, length in enumerate(of_group)
    ]
    rows = fill(found, replace(SHAPES, row_tokens=100))
    assert [[len(i.trajectory.ids) for i in row.items] for row in rows] == [[60, 40], [60, 35, 5]]
    assert [row.room for row in rows] == [0, 0]


def lengths_in(rows):
    return [[len(item.trajectory.ids) for item in row.items] for row in rows]


def test_an_episode_goes_where_it_leaves_the_least_room():
    alone = {"a": 70, "b": 50, "c": 30, "d": 50}
    found = [
        episode(record, 1000 * number + np.arange(length), 1)
        for number, (record, length) in enumerate(alone.items())
    ]
    assert lengths_in(fill(found, replace(SHAPES, row_tokens=100))) == [[70, 30], [50, 50]]


def test_an_episode_rather_goes_where_its_prompt_lies():
    """It would leave less room in the other row."""
    prompt = np.arange(21)
    found = [
        episode("other", 1000 + np.arange(70), 1),
        *(
            episode("group", np.r_[prompt, 2000 + 100 * rollout + np.arange(rest)], 1, (), 21)
            for rollout, rest in enumerate((39, 7))
        ),
    ]
    rows = fill(found, replace(SHARED, row_tokens=100))
    assert lengths_in(rows) == [[70], [60, 28]]
    assert [row.room for row in rows] == [30, 32]


@pytest.mark.seconds
@pytest.mark.parametrize("shards", [16, 32])
def test_rows_of_the_papers_lengths_are_full(shards):
    """32 groups of 16 episodes: a prompt of about 1,400 tokens, and about 1,500 of its own."""
    rng, found = np.random.default_rng(0), []
    for group in range(32):
        prompt = int(rng.integers(1300, 1500))
        for rollout in range(16):
            own = int(np.clip(rng.normal(1500, 400), 700, 3000))
            ids = np.zeros(prompt + own, np.int32)
            found.append(episode(f"g{group}", ids, own // 3, (), prompt, rollout))
    shapes = TrainShapes(8192, 1, 4096, windows=1, span=1, shared=True)
    rows = fill(found, shapes)
    most = max(map(len, deal(rows, shards)))
    computed = shards * most * shapes.row_tokens
    filled = sum(shapes.row_tokens - row.room for row in rows)
    assert filled / computed >= 0.85
    assert filled / (len(rows) * shapes.row_tokens) >= 0.9
    apart = defaultdict(set)
    for shard, of_shard in enumerate(deal(rows, shards)):
        for row in of_shard:
            for record in row.groups:
                apart[record].add(shard)
    assert np.mean([*map(len, apart.values())]) < 3, "a group's rows stay together"
    mini_batch = packed(found, shapes, shards)
    assert mini_batch.filling.tokens == filled
    assert mini_batch.filling.all_tokens == computed


def test_a_picture_lies_once_on_every_shard_that_shows_it():
    found = [item for item in items(0, (6, 1)) if item.trajectory.record == "g0"]
    crops = sum(len(item.pictures) - 1 for item in found)
    together = packed(found, replace(SHAPES, row_tokens=1000))
    assert sum(len(bin_.first) for [bin_] in together.bins) == 1 + crops
    longest = max(len(item.trajectory.ids) for item in found)
    apart = packed(found, replace(SHAPES, row_tokens=longest), shards=2)
    for shard in range(2):
        assert sum("g0" in bins[shard].first for bins in apart.bins) == 1
    assert sum(len(bin_.first) for bins in apart.bins for bin_ in bins) == 2 + crops
    check_all_there(apart, found, 2)


def test_a_picture_of_several_groups_lies_once():
    """Equal keys are the same picture, whoever shows it."""
    picture = SeenPicture("shown by all", np.full((84, 56, 3), 9, np.uint8))
    found = [
        episode(
            f"g{group}", [group + 1, *[IMAGE] * 6, 40, 50 + rollout, 60], 2, (picture,), 8, rollout
        )
        for group in range(3)
        for rollout in range(2)
    ]
    mini_batch = packed(found, SHARED)
    assert [[*bin_.first] for [bin_] in mini_batch.bins] == [["shown by all"]]
    check_all_there(mini_batch, found, 1)
    places = mini_batch.rows[0].tokens.image_index
    assert (places >= 0).sum() == 3 * 6, "once a prompt"
    assert len(np.unique(places[places >= 0])) == 6


def test_an_episode_with_five_pictures():
    rng = np.random.default_rng(0)
    pictures, ids = [], [1]
    for number, columns in enumerate((2, 5, 1, 9, 4)):
        pixels = rng.integers(0, 256, (56, 28 * columns, 3), dtype=np.uint8)
        pictures.append(SeenPicture(number, pixels))
        ids += [*[IMAGE] * 2 * columns, 10 + number]
    found = [episode("e", ids, 3, pictures), *items(1)]
    mini_batch = packed(found, replace(SHAPES, windows=4, span=2), shards=2)
    assert len(mini_batch.bins) > 1
    check_all_there(mini_batch, found, 2)


def test_a_prompt_lies_once_in_a_row():
    found = [item for item in items(0, (6, 1)) if item.trajectory.record == "g0"]
    prompt = found[0].prompt
    assert prompt > 3
    lengths = [len(item.trajectory.ids) for item in found]
    shapes = replace(SHARED, row_tokens=sum(lengths) - 5 * (prompt - 1))
    [row] = fill(found, shapes)
    assert row.room == 0
    tokens = packed(found, shapes).rows[0].tokens
    at = np.flatnonzero(tokens.segments[0] == 1)
    np.testing.assert_array_equal(tokens.ids[0, at], found[0].trajectory.ids[: len(at)])
    assert len(at) == prompt - 1


def test_rows_with_many_tokens_that_count_have_places_for_all():
    """They come first, in as few micro-batches as hold them; the others have the usual places."""
    counts = (10, 45, 8, 30, 9, 5)
    found = [
        episode(f"e{number}", 1000 + np.arange(100 * number, 100 * number + 60), count)
        for number, count in enumerate(counts)
    ]
    shapes = TrainShapes(60, 2, places=10, windows=1, span=1)
    mini_batch = packed(found, shapes)
    assert sizes(mini_batch) == ([60, 10, 10], [])
    assert (mini_batch.rows[0].weights > 0).sum(axis=1).tolist() == [45, 30]
    check_all_there(mini_batch, found, 1)
    one_each = packed(found, replace(shapes, rows=1), shards=3)
    assert sizes(one_each) == ([60, 10], [])
    check_all_there(one_each, found, 3)
    few = packed(found, replace(shapes, places=45))
    assert sizes(few) == ([45, 45, 45], [])


def test_the_largest_pictures_are_placed_first():
    """So that the small ones fill the spans."""
    mini_batch = packed(in_windows(1, 1, 3, 3), replace(SHAPES, windows=8, span=4))
    [[bin_]] = mini_batch.bins
    assert bin_.free == [0, 0]


def test_a_strip_lies_in_a_micro_batch_that_is_one_span():
    """And leaves its room to others, which else lie in the usual spans."""
    found = in_windows(3, 7, 2, 4, 4, 4, 4)
    mini_batch = packed(found, replace(SHAPES, windows=8, span=4))
    assert sizes(mini_batch)[1] == [8, 4, 4, 4]
    [first, *_] = mini_batch.bins
    assert first[0].span == 8
    assert [*first[0].first] == [1], "one of 7 windows"
    check_all_there(mini_batch, found, 1)
    several = packed(found, replace(SHAPES, windows=8, span=4), shards=2)
    assert {bin_.span for bin_ in several.bins[0]} == {8}, "on every shard"
    check_all_there(several, found, 2)


def test_what_fits_nowhere_is_refused_by_name():
    found = items(0)
    with pytest.raises(ValueError, match=r"'g0': an episode of \d+ ids does not fit a row of 20"):
        packed(found, replace(SHAPES, row_tokens=20, places=20))
    with pytest.raises(ValueError, match=r"a picture of \d windows does not fit .*update.windows"):
        packed(found, replace(SHAPES, windows=1, span=1))


def test_fewer_rows_than_shards_leave_shards_empty():
    found = items(3, (2, 1))
    mini_batch = packed(found, replace(SHAPES, row_tokens=1000), shards=4)
    [rows] = mini_batch.rows
    filled = rows.tokens.segments.reshape(4, -1).any(axis=1)
    assert filled.sum() == 1
    assert (rows.weights.reshape(4, -1) > 0).any(axis=1).tolist() == filled.tolist()
    for images in mini_batch.pictures():
        assert not images.picture[~filled].any()
    check_all_there(mini_batch, found, 4)
    check_filling(mini_batch, 4)


def test_no_pictures_are_no_images_unless_another_process_has_some():
    found = [item for item in items(0, (3, 4)) if not item.pictures]
    assert found
    assert packed(found, SHAPES).bins == ()
    mini_batch = packed(found, SHAPES, agree=lambda own: [3, 1, 2, 1])
    assert sizes(mini_batch) == ([200, 50, 50], [24, 8, 8])
    assert not any(images.picture.any() for images in mini_batch.pictures())
    check_all_there(mini_batch, found, 1)


def test_processes_agree_on_the_most_that_any_needs():
    """What each would need alone is said by kinds: rows, crowded rows, pictures, strips."""
    needs = []
    shapes = replace(SHAPES, rows=1, places=10, row_tokens=60, windows=8, span=4)
    counts = (20, 5)
    rows = [
        episode(f"r{number}", 1000 + np.arange(60 * number, 60 * number + 60), count)
        for number, count in enumerate(counts)
    ]
    for found in (rows, in_windows(7, 4, 4, 4)):
        packed(found, shapes, agree=lambda own: needs.append([*own]) or own)
    assert needs == [[2, 1, 0, 0], [2, 0, 2, 1]]


def test_a_process_with_nothing_at_all_still_has_the_shapes_of_the_others():
    mini_batch = packed([], SHAPES, shards=2, agree=lambda own: [2, 1, 1, 1])
    assert [rows.tokens.ids.shape for rows in mini_batch.rows] == [(4, 200)] * 2
    assert sizes(mini_batch) == ([200, 50], [24, 8])
    assert not any(rows.weights.any() for rows in mini_batch.rows)
    assert astuple(mini_batch.filling) == (0, 2 * 4 * 200, 0, 2 * 2 * 24)


@pytest.mark.parametrize(
    ("n", "count"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 12), (13, 16)]
)
def test_room_for_the_embeddings_of_micro_batches(n, count):
    assert micro_batches_for(n) == count


@pytest.mark.compiles
@pytest.mark.parametrize("shared", [True, False])
def test_rows_and_pictures_are_in_the_order_that_cudnn_needs(shared):
    for seed in range(3):
        found = items(seed, sizes=(3, 1, 4, 2, 3))
        length = 2 * max(len(item.trajectory.ids) for item in found)
        shapes = TrainShapes(length, 2, length, 14, 14, shared)
        mini_batch = packed(found, shapes)
        segments, prefix = (
            None if each[0] is None else jnp.concatenate(each)
            for each in zip(*[(x.tokens.segments, x.tokens.prefix) for x in mini_batch.rows])
        )
        pictures = jnp.concatenate(
            [
                images.picture.reshape(-1, images.picture.shape[-1])
                for images in mini_batch.pictures()
            ]
        )
        assert in_order(segments, prefix).all()
        assert (gaps_filled(pictures) == pictures).all()
        assert in_order(pictures, None).all()
        assert (segments.max(axis=1) > 1).any()
        assert (pictures.max(axis=1) > 1).any()
