import numpy as np
import pytest

from lfpc_jax.processing.positions import mrope_positions
from support.reference import rope_index

IMAGE = 151655


def _row(rng: np.random.Generator, images: int, touching: bool = False):
    """Random text with `images` images of random merged grids among it."""
    grids = [tuple(map(int, rng.integers(1, 9, 2))) for _ in range(images)]
    pieces = [rng.integers(0, 1000, rng.integers(0, 9))]
    for i, (rows, cols) in enumerate(grids):
        last = i == images - 1
        text = rng.integers(0, 1000, rng.integers(0 if touching or last else 1, 9))
        pieces += [np.full(rows * cols, IMAGE), text]
    return np.concatenate(pieces).astype(np.int32), grids


@pytest.mark.parametrize("seed", range(20))
def test_equals_transformers_on_padded_batches(seed):
    rng = np.random.default_rng(seed)
    made = [_row(rng, images) for images in (0, 1, 2, 5)]
    rows, grids = [row for row, _ in made], [grid for _, some in made for grid in some]
    rows[0] = np.append(rows[0], 7).astype(np.int32)
    expected, deltas = rope_index(rows, grids, IMAGE)
    for i, (row, (_, own)) in enumerate(zip(rows, made)):
        positions, after = mrope_positions(row, own, IMAGE)
        np.testing.assert_array_equal(positions, expected[:, i, : len(row)])
        assert after == deltas[i] + len(row)


def test_one_image_by_hand():
    positions, after = mrope_positions(np.array([5, 6, *[IMAGE] * 6, 7, 8]), [(2, 3)], IMAGE)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert positions.dtype == np.int32
    assert after == 7


def test_touching_images_keep_their_own_positions():
    """By runs of placeholders, as in transformers, these two would be one block of 5."""
    positions, after = mrope_positions(np.array([*[IMAGE] * 5, 9]), [(1, 2), (3, 1)], IMAGE)
    assert positions.tolist() == [
        [0, 0, 2, 2, 2, 5],
        [0, 0, 2, 3, 4, 5],
        [0, 1, 2, 2, 2, 5],
    ]
    assert after == 6


@pytest.mark.parametrize("seed", range(20))
def test_in_pieces_as_in_whole(seed):
    rng = np.random.default_rng(seed)
    made = [_row(rng, images, touching=True) for images in rng.integers(0, 4, 4)]
    whole = mrope_positions(
        np.concatenate([ids for ids, _ in made]), [g for _, grids in made for g in grids], IMAGE
    )
    parts, position = [], 0
    for ids, grids in made:
        part, position = mrope_positions(ids, grids, IMAGE, start=position)
        parts.append(part)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole[0])
    assert position == whole[1]


def test_no_ids_move_nothing():
    positions, after = mrope_positions(np.zeros(0, np.int32), [], IMAGE, start=11)
    assert positions.shape == (3, 0)
    assert after == 11


@pytest.mark.parametrize(
    ("ids", "grids", "message"),
    [
        (
            [1, *[IMAGE] * 4],
            [(2, 2), (1, 3)],
            r"image 1 of grid \(1, 3\) needs 3 .* next 0 of the 4",
        ),
        ([1, *[IMAGE] * 5], [(2, 2), (1, 3)], r"image 1 .* needs 3 .* next 1 of the 5"),
        ([1, *[IMAGE] * 5], [(2, 2)], "1 image placeholders too many, from index 5"),
        ([IMAGE], [], "1 image placeholders too many, from index 0"),
        ([IMAGE, 3, IMAGE], [(1, 2)], r"image 0 .* begin at \[0\] and end at \[2\]"),
        ([3], [(0, 4)], r"image 0 of grid \(0, 4\)"),
    ],
)
def test_placeholders_and_grids_must_agree(ids, grids, message):
    with pytest.raises(ValueError, match=message):
        mrope_positions(np.array(ids), grids, IMAGE)
