"""Boxes to label with, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.cropvlm.grid import FACTORS, cells, expanded, in_pixels, widened
from lfpc_jax.processing.geometry import Box, area, clamp


def test_a_grid_of_two_has_these_nine_boxes_in_this_order():
    assert cells(2) == (
        (0, 0, 1, 1), (0, 0, 2, 1), (1, 0, 2, 1),  # the upper row
        (0, 0, 1, 2), (0, 0, 2, 2), (1, 0, 2, 2),  # both rows
        (0, 1, 1, 2), (0, 1, 2, 2), (1, 1, 2, 2),  # the lower row
    )  # fmt: skip


@pytest.mark.parametrize(("count", "boxes"), [(1, 1), (2, 9), (3, 36), (4, 100), (5, 225)])
def test_a_grid_has_every_range_of_cells_once(count, boxes):
    made = cells(count)
    assert len(made) == len(set(made)) == boxes
    for x1, y1, x2, y2 in made:
        assert 0 <= x1 < x2 <= count
        assert 0 <= y1 < y2 <= count


def test_a_grid_without_cells_is_refused():
    with pytest.raises(ValueError, match="a grid of 0 x 0 cells"):
        cells(0)


def test_cells_in_pixels_of_the_original():
    assert in_pixels(Box(1, 0, 3, 5), 5, (1000, 500)) == (200, 0, 600, 500)
    assert in_pixels(Box(1, 2, 4, 3), 5, (101, 33)) == (20.2, 13.2, 80.8, 19.8)
    assert in_pixels(Box(0, 0, 5, 5), 5, (101, 33)) == (0, 0, 101, 33)


def test_widening_is_the_digest_of_seed_and_record():
    """By hand from blake2b of `3\\0r1`: shares 0.8139, 0.7186, 0.2003 and 0.3806 of `most`."""
    made = widened(Box(200, 100, 400, 300), (1000, 500), 0.2, seed=3, record="r1")
    assert made == pytest.approx((42.515, 59.660, 469.644, 319.856), abs=1e-3)
    assert widened(Box(200, 100, 400, 300), (1000, 500), 0.2, seed=3, record="r1") == made
    for seed, record in ((4, "r1"), (3, "r2")):
        assert widened(Box(200, 100, 400, 300), (1000, 500), 0.2, seed=seed, record=record) != made
    assert widened(Box(200, 100, 400, 300), (1000, 500), 0.0, seed=3, record="r1") == (
        200, 100, 400, 300,
    )  # fmt: skip


def test_widening_is_uniform_on_each_side_and_clipped():
    """Of 4,000 records; a mean of uniform numbers has a deviation of 1/sqrt(12)/sqrt(4000)."""
    box, size = Box(400, 200, 600, 300), (1000, 500)
    made = [widened(box, size, 0.2, seed=0, record=f"r{i}") for i in range(4000)]
    moved = [
        ((box.x1 - m.x1) / 200, (box.y1 - m.y1) / 100, (m.x2 - box.x2) / 200, (m.y2 - box.y2) / 100)
        for m in made
    ]
    for amounts in zip(*moved):
        assert 0 <= min(amounts) < 0.01
        assert 0.99 < max(amounts) < 1
        assert sum(amounts) / 4000 == pytest.approx(0.5, abs=4 * 0.00457)
    for a in range(4):
        for b in range(a):
            both = sum((x[a] - 0.5) * (x[b] - 0.5) for x in moved) / 4000
            assert both == pytest.approx(0, abs=4 / 12 / 4000**0.5)
    whole = [widened(Box(0, 0, 1000, 500), size, 0.2, seed=0, record=f"r{i}") for i in range(9)]
    assert set(whole) == {(0, 0, 1000, 500)}


def test_outside_boxes_are_expanded_by_quintile():
    """Ten boxes of a picture of 1000 x 1000, two a quintile; given in no order."""
    sides = [10, 20, 30, 40, 50, 100, 150, 200, 300, 400]
    order = [3, 7, 0, 9, 1, 5, 8, 2, 6, 4]
    boxes = [Box(500 - sides[i] / 2, 500 - sides[i] / 2, 500 + sides[i] / 2, 500 + sides[i] / 2)
             for i in order]  # fmt: skip
    made = expanded(boxes, [(1000, 1000)] * 10)
    expected = [45, 45, 10, 10, 4, 4, 2, 2, 1, 1]
    for i, box in zip(order, made):
        assert area(box) == pytest.approx(expected[i] * sides[i] ** 2)
        assert (box.x1 + box.x2, box.y1 + box.y2) == pytest.approx((1000, 1000))


def test_what_counts_is_the_share_of_the_picture():
    """The larger box covers less of its picture."""
    boxes = [Box(0, 0, 100, 100), Box(0, 0, 60, 60)]
    made = expanded(boxes, [(2000, 1000), (200, 100)])
    assert area(made[0]) == pytest.approx(45 * 100 * 100)
    assert made[1] == pytest.approx((0, 0, 60 * 2, 100))  # the third quintile, four times: cut


def test_factors_may_be_others_and_as_many_as_there_are_parts():
    boxes = [Box(500 - side, 500 - side, 500 + side, 500 + side) for side in (10, 20, 30, 40)]
    made = expanded(boxes, [(1000, 1000)] * 4, (4.0, 1.0))
    assert [area(box) / 4 for box in made] == pytest.approx([400, 1600, 900, 1600])


def test_boxes_that_cover_as_much_are_expanded_alike():
    boxes = [Box(0, 0, 10, 10)] * 5
    areas = [area(box) for box in expanded(boxes, [(1000, 1000)] * 5)]
    assert areas == pytest.approx([4500] * 5)  # none covers less than another
    assert expanded([], []) == []


@given(st.lists(st.tuples(*[st.integers(0, 99)] * 2, *[st.integers(1, 100)] * 2), max_size=12))
def test_expanded_boxes_stay_inside_and_never_shrink(given_boxes):
    boxes = [Box(x, y, min(x + w, 100), min(y + h, 100)) for x, y, w, h in given_boxes]
    for before, after in zip(boxes, expanded(boxes, [(100, 100)] * len(boxes)), strict=True):
        assert clamp(after, (100, 100)) == after
        assert area(after) >= area(before) - 1e-9


def test_the_published_factors():
    assert FACTORS == (45, 10, 4, 2, 1)
