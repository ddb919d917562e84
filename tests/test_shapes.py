from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from lfpc_jax.shapes import (
    Buckets,
    RolloutShapes,
    TrainShapes,
    common_windows,
    geometric,
    max_windows,
    scoring_micro_batches,
    scoring_shapes,
    spans_for,
    windows_for,
)


@pytest.mark.parametrize(("n", "bucket"), [(0, 16), (16, 16), (17, 40), (40, 40), (41, 64)])
def test_the_smallest_bucket_that_holds_it(n, bucket):
    assert Buckets((16, 40, 64)).fit(n, "windows") == bucket


def test_too_large_names_the_thing_the_value_and_the_buckets():
    with pytest.raises(ValueError, match=r"crop windows: 65 .*\(16, 64\).*add a larger bucket"):
        Buckets((16, 64)).fit(65, "crop windows")


@pytest.mark.parametrize("sizes", [(), (0, 4), (4, 4), (8, 4)])
def test_buckets_ascend(sizes):
    with pytest.raises(ValueError, match="strictly ascending"):
        Buckets(sizes)


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ((64, 1000), (64, 128, 256, 512, 1000)),
        ((64, 128), (64, 128)),
        ((7, 7), (7,)),
        ((10, 40, 1.5), (10, 15, 23, 35, 40)),
    ],
)
def test_geometric_buckets(arguments, sizes):
    assert geometric(*arguments).sizes == sizes


@given(st.integers(1, 500), st.integers(0, 5000), st.floats(1.01, 4), st.data())
def test_geometric_buckets_waste_less_than_their_ratio(smallest, more, ratio, data):
    largest = smallest + more
    n = data.draw(st.integers(smallest, largest))
    assert n <= geometric(smallest, largest, ratio).fit(n, "n") < n * ratio + 1


@pytest.mark.parametrize("arguments", [(0, 4), (8, 4), (4, 8, 1.0)])
def test_geometric_refuses_what_never_ends(arguments):
    with pytest.raises(ValueError, match="ratio over 1"):
        geometric(*arguments)


@pytest.mark.parametrize(
    ("grid", "windows"), [((1, 1), 1), ((4, 4), 1), ((4, 5), 2), ((9, 3), 3), ((24, 42), 66)]
)
def test_edge_windows_count_whole(grid, windows):
    assert windows_for(*grid) == windows


def test_a_window_of_another_side():
    assert windows_for(9, 10, window=2) == 25


@pytest.mark.parametrize(
    ("budget", "windows"),
    # 1,024 tokens as a square need 64 windows; as the strip of 2x500 that 14000x70 pixels
    # become, 125. A 1x300 strip would need 75, but one row is never wider than 293.
    [(4, 1), (16, 4), (64, 16), (300, 75), (512, 80), (1024, 125), (4096, 410), (16384, 1365)],
)
def test_no_image_needs_more_windows_than_the_bound(budget, windows):
    assert max_windows(budget) == windows
    most = max(
        windows_for(rows, cols) for rows, cols in _grids_of_strips(budget) if rows * cols <= budget
    )
    assert 0.98 * windows <= most <= windows


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(4, 2000))
def test_the_bound_holds_for_any_image(width, height, budget):
    if max(width, height) > 200 * min(width, height):
        return
    resized = smart_resize(height, width, 28, 3136, budget * 784)
    rows, cols = (side // 28 for side in resized)
    if rows * cols <= budget:
        assert windows_for(rows, cols) <= max_windows(budget)


def _grids_of_strips(budget: int):
    """Resized grids of strips at the edges of the rule, by transformers' own function."""
    steps = [*range(1, 301), *range(304, 2001, 8)]
    heights = [28 * rows + extra for rows in range(1, 11) for extra in (-13, 0, 13, 14)]
    sizes = [(height, 28 * columns) for height in heights for columns in steps]
    sizes += [(height, 200 * height) for height in heights]
    sizes += [(9973, 9973 * ratio // 8) for ratio in range(8, 1601)]
    for height, width in sizes:
        if height <= width <= 200 * height:
            resized = smart_resize(height, width, 28, 3136, budget * 784)
            yield resized[0] // 28, resized[1] // 28


@pytest.mark.parametrize("windows", [0, 100, 1000])
@pytest.mark.parametrize("tokens", [4, 64, 1024])
def test_a_micro_batch_of_pictures_holds_any_picture_and_lies_in_spans(tokens, windows):
    """A span holds a picture of full size, and a whole micro-batch the narrowest strip."""
    rollout = RolloutShapes(slots=8, capacity=8192, image_tokens=tokens, crop_tokens=tokens)
    shapes = TrainShapes.of(rollout, max_turns=3, rows=1, windows=windows)
    assert shapes.span == common_windows(tokens)
    assert shapes.windows % shapes.span == 0
    needed = max(windows or 2 * shapes.span, rollout.image_windows.sizes[-1], max_windows(tokens))
    assert needed <= shapes.windows < needed + shapes.span


def test_a_single_turn_has_no_crops():
    rollout = RolloutShapes(image_tokens=64, crop_tokens=1024)
    alone, several = (TrainShapes.of(rollout, max_turns=turns, rows=1) for turns in (1, 2))
    assert alone.windows < several.windows
    assert (alone.span, several.span) == (common_windows(64), common_windows(1024))


def test_places_are_a_quarter_of_a_row_unless_said():
    rollout = RolloutShapes(capacity=4098)
    assert TrainShapes.of(rollout, max_turns=2, rows=1).places == 1025
    shapes = TrainShapes.of(rollout, max_turns=2, rows=1, row_tokens=8192, places=3000)
    assert (shapes.row_tokens, shapes.places, shapes.all_places) == (8192, 3000, (3000, 8192))
    assert replace(shapes, places=8192).all_places == (8192,)
    assert replace(shapes, windows=72, span=72).spans == (72,)
    assert replace(shapes, windows=144, span=72).spans == (72, 144)
    with pytest.raises(ValueError, match="5000 places in rows of 4098 tokens; lower places, or"):
        TrainShapes.of(rollout, max_turns=2, rows=1, places=5000)
    with pytest.raises(ValueError, match="rows of 4097 tokens cannot hold an episode of 4098"):
        TrainShapes.of(rollout, max_turns=2, rows=1, row_tokens=4097)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": 0}, "^update shapes: rows 0; at least 1$"),
        ({"places": 0, "span": -2}, "^update shapes: places 0, span -2; at least 1$"),
        ({"places": 65}, "65 places in rows of 64 tokens; .* lower places"),
        ({"span": 5}, "8 windows in spans of 5; windows must be a multiple of the span"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes, message):
    whole = {"row_tokens": 64, "rows": 1, "places": 16, "windows": 8, "span": 4}
    with pytest.raises(ValueError, match=message):
        TrainShapes(**(whole | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": -1, "chunk": 0}, "^rollout shapes: slots -1, chunk 0; at least 1$"),
        ({"kept": -1}, "^rollout shapes: kept -1; at least 0$"),
    ],
)
def test_an_engine_s_shapes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RolloutShapes(**changes)


def test_a_question_s_micro_batches():
    """A prompt of 300 tokens and 20 episodes of 100 more in rows of 1,024: 7 episodes in each of 3
    rows. An image of 16 windows and 20 crops of 4: 1 + 5 spans of 16."""
    windows = [16, *[4] * 20]
    rows = partial(scoring_shapes, [(300, 400)] * 20, windows, keys=1500.0, shared=True)
    row = rows(shards=1)
    assert row == TrainShapes(1024, 1, 1024, 16, 16, shared=True)
    assert rows(shards=8).row_tokens == 640  # 300 + 3 x 100, in steps of 128
    made = partial(scoring_micro_batches, row, windows, rows=3, counting=35)
    assert made(tokens=32768, shards=1) == TrainShapes(1024, 3, 64, 6 * 16, 16, shared=True)
    assert made(tokens=2048, shards=1) == TrainShapes(1024, 2, 64, 16, 16, shared=True)
    assert made(tokens=8192, shards=1) == TrainShapes(1024, 3, 64, 3 * 16, 16, shared=True)
    assert made(tokens=100, shards=1) == TrainShapes(1024, 1, 64, 16, 16, shared=True)
    assert made(tokens=32768, shards=2) == TrainShapes(1024, 2, 64, 4 * 16, 16, shared=True)


@given(
    windows=st.lists(st.integers(1, 40), min_size=1, max_size=300),
    rows=st.integers(1, 100),
    shards=st.integers(1, 8),
    tokens=st.integers(1, 40000),
)
def test_micro_batches_of_a_question_are_few_and_full(windows, rows, shards, tokens):
    row = scoring_shapes([(10, 60)] * 9, windows, keys=500.0, shared=True, shards=shards)
    shapes = scoring_micro_batches(
        row, windows, rows=rows, counting=5, tokens=tokens, shards=shards
    )
    on_shard = -(-rows // shards)
    batches = -(-on_shard // shapes.rows)
    assert shapes.rows * shapes.row_tokens <= max(tokens, shapes.row_tokens)
    assert batches * shapes.rows - on_shard < batches  # a micro-batch lacks a row at most
    spans = shapes.windows // shapes.span
    assert shapes.windows <= max(tokens / 128, shapes.span) * 9 / 8
    needed = spans_for(windows, shapes.span)
    assert spans <= 9 / 8 * (1 + -(-(needed - 1) // shards))
    assert sum(windows) <= needed * shapes.span < 2 * sum(windows) + shapes.span
