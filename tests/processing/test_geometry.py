import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.processing.geometry import (
    Box,
    Frame,
    area,
    clamp,
    crop_box,
    grow,
    hull,
    intersection,
    iou,
    scaled,
)

CONVENTIONS = ("shown", "original", "unit", "percent", "mille")
sides = st.integers(1, 10_000)
sizes = st.tuples(sides, sides)
frames = st.builds(Frame, original=sizes, shown=sizes)
coordinates = st.floats(-2e4, 2e4)
anything = st.builds(Box, coordinates, coordinates, coordinates, coordinates)
proper = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    *[st.floats(-500, 500)] * 2,
    *[st.floats(1, 500)] * 2,
)


def test_conventions_of_an_8k_picture_at_1024_tokens():
    frame = Frame(original=(7680, 4320), shown=(1176, 672))
    box = Box(294.0, 168.0, 588.0, 336.0)
    assert frame.to(box, "shown", "original") == (1920, 1080, 3840, 2160)
    assert frame.to(box, "shown", "unit") == (0.25, 0.25, 0.5, 0.5)
    assert frame.to(box, "shown", "percent") == (25, 25, 50, 50)
    assert frame.to(box, "shown", "mille") == (250, 250, 500, 500)
    assert frame.to(Box(250, 250, 500, 500), "mille", "original") == (1920, 1080, 3840, 2160)


@given(frames, anything, st.sampled_from(CONVENTIONS), st.sampled_from(CONVENTIONS))
def test_there_and_back(frame, box, source, target):
    back = frame.to(frame.to(box, source, target), target, source)
    assert back == pytest.approx(box, rel=1e-6, abs=1e-300)


@given(frames, anything, *[st.sampled_from(CONVENTIONS)] * 3)
def test_a_detour_changes_nothing(frame, box, source, between, target):
    detour = frame.to(frame.to(box, source, between), between, target)
    assert detour == pytest.approx(frame.to(box, source, target), rel=1e-6, abs=1e-300)


@pytest.mark.parametrize("original", [(0, 5), (5, -1)])
def test_a_frame_has_sides(original):
    with pytest.raises(ValueError, match="at least 1 pixel"):
        Frame(original=original, shown=(28, 28))


@given(anything, sizes)
def test_clamped_boxes_are_inside_and_stay(box, bounds):
    inside = clamp(box, bounds)
    assert 0 <= min(inside)
    assert max(inside.x1, inside.x2) <= bounds[0]
    assert max(inside.y1, inside.y2) <= bounds[1]
    assert clamp(inside, bounds) == inside
    if 0 <= min(box) and max(box) <= min(bounds):
        assert inside == box


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_clamp_refuses_what_is_no_number(bad):
    with pytest.raises(ValueError, match="finite"):
        clamp(Box(0, 0, bad, 1), (10, 10))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(40, 40, 50, 50), Box(31, 31, 59, 59)),  # about its centre
        (Box(0, 95, 10, 100), Box(0, 72, 28, 100)),  # shifted inside
        (Box(10, 10, 60, 20), Box(10, 1, 60, 29)),  # only the short side
        (Box(-20, 30, 30, 90), Box(0, 30, 30, 90)),  # clamped, then long enough
    ],
)
def test_growth(box, expected):
    assert grow(box, 28, (100, 100)) == expected


def test_a_picture_smaller_than_the_minimum_is_taken_whole():
    assert grow(Box(3, 3, 4, 4), 28, (20, 50)) == (0, 0, 20, 28)


@pytest.mark.parametrize(
    ("box", "factor", "expected"),
    [
        (Box(40, 20, 60, 30), 4, (30, 15, 70, 35)),  # each side twice as long
        (Box(40, 20, 60, 30), 2.25, (35, 17.5, 65, 32.5)),
        (Box(40, 20, 60, 30), 0.25, (45, 22.5, 55, 27.5)),
        (Box(40, 20, 60, 30), 1, (40, 20, 60, 30)),
        (Box(0, 10, 20, 20), 4, (0, 5, 40, 25)),  # from (-10, 5, 30, 25), shifted to the right
        (Box(85, 40, 95, 50), 9, (70, 20, 100, 50)),  # from (75, 30, 105, 60), shifted both ways
        (Box(10, 20, 50, 30), 9, (0, 10, 100, 40)),  # 120 wide, where the picture has 100
        (Box(80, 45, 120, 55), 4, (60, 40, 100, 50)),  # clamped to 20 x 5 first
    ],
)
def test_a_box_is_scaled_by_its_area(box, factor, expected):
    assert scaled(box, factor, (100, 50)) == expected


@given(proper, st.floats(0.1, 50), sizes)
def test_a_scaled_box_stays_inside_and_has_its_area_if_it_fits(box, factor, bounds):
    made, inside = scaled(box, factor, bounds), clamp(box, bounds)
    assert clamp(made, bounds) == made
    sides = [factor**0.5 * (inside[i + 2] - inside[i]) for i in (0, 1)]
    if sides[0] <= bounds[0] and sides[1] <= bounds[1]:
        assert area(made) == pytest.approx(factor * area(inside), abs=1e-6)


def test_the_hull_is_the_smallest_box_around_all():
    assert hull([Box(3, 4, 5, 9)]) == (3, 4, 5, 9)
    assert hull([Box(3, 4, 5, 9), Box(1, 6, 4, 7), Box(2, 5, 8, 6)]) == (1, 4, 8, 9)


@given(proper, st.integers(1, 600), sizes)
def test_growth_stays_inside_and_reaches_the_minimum(box, minimum, bounds):
    grown = grow(box, minimum, bounds)
    assert clamp(grown, bounds) == grown
    inside = clamp(box, bounds)
    for low, high in ((0, 2), (1, 3)):
        extent = bounds[low]
        assert grown[high] - grown[low] >= min(minimum, extent) - 1e-9
        assert grown[low] <= inside[low] + 1e-9
        assert grown[high] >= inside[high] - 1e-9
        middle = (inside[low] + inside[high]) / 2
        if inside[high] - inside[low] >= minimum:
            assert (grown[low], grown[high]) == (inside[low], inside[high])
        elif minimum / 2 <= middle <= extent - minimum / 2:
            assert (grown[low] + grown[high]) / 2 == pytest.approx(middle, abs=1e-9)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        (Box(10.2, 10.8, 20.2, 20.0), (10, 10, 21, 20)),
        (Box(5, 5, 5, 5), (5, 5, 6, 6)),  # empty: the pixel it lies in
        (Box(100, 100, 100, 100), (99, 99, 100, 100)),
        (Box(-9, -9, 500, 500), (0, 0, 100, 100)),
        (Box(60, 0, 40, 10), (60, 0, 61, 10)),  # inside out
        (Box(9.9999999, 0, 20.0000001, 10), (10, 0, 20, 10)),  # noise of a conversion
    ],
)
def test_whole_pixels(box, pixels):
    assert crop_box(box, (100, 100)) == pixels


@given(anything, sizes)
def test_crops_are_never_empty_and_always_inside(box, bounds):
    x1, y1, x2, y2 = crop_box(box, bounds)
    assert 0 <= x1 < x2 <= bounds[0]
    assert 0 <= y1 < y2 <= bounds[1]


@given(sizes, sizes, st.data())
def test_a_box_of_whole_pixels_survives_its_way_through_another_frame(original, shown, data):
    x1, y1 = (data.draw(st.integers(0, side - 1)) for side in original)
    x2, y2 = (data.draw(st.integers(low + 1, side)) for low, side in zip((x1, y1), original))
    frame, box = Frame(original, shown), Box(x1, y1, x2, y2)
    back = frame.to(frame.to(box, "original", "shown"), "shown", "original")
    assert crop_box(back, original) == box


def test_overlap_by_hand():
    a, b = Box(0, 0, 4, 4), Box(2, 2, 6, 6)
    assert intersection(a, b) == (2, 2, 4, 4)
    assert area(intersection(a, b)) == 4
    assert iou(a, b) == pytest.approx(4 / 28)
    assert iou(a, a) == 1
    assert iou(a, Box(5, 5, 6, 6)) == 0
    assert area(Box(3, 3, 1, 1)) == 0
    assert iou(Box(1, 1, 1, 1), Box(1, 1, 1, 1)) == 0


@given(proper, proper, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_iou_does_not_depend_on_the_convention(a, b, scale_x, scale_y):
    def scaled(box):
        return Box(box.x1 * scale_x, box.y1 * scale_y, box.x2 * scale_x, box.y2 * scale_y)

    assert iou(scaled(a), scaled(b)) == pytest.approx(iou(a, b), abs=1e-6)
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1 + 1e-9


@given(proper, proper, *[st.floats(0.01, 0.99)] * 2)
def test_a_contained_box_shares_itself(a, other, right, down):
    """Of two boxes that overlap: the other from where it ends at one side to where it begins at the
    other."""
    (width, height), (across, along) = ((box.x2 - box.x1, box.y2 - box.y1) for box in (a, other))
    x, y = a.x1 - across + right * (width + across), a.y1 - along + down * (height + along)
    shared = intersection(a, Box(x, y, x + across, y + along))
    assert area(shared) > 0
    assert intersection(shared, a) == shared
    assert iou(shared, a) == pytest.approx(area(shared) / area(a))
