import math
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.processing.geometry import Box, Frame, grow
from lfpc_jax.rewards.grounding import Grounded, Grounding, ground, ground_boxes
from support.handmade import crop_turn, episode, record, refused_turn

INNER = (20, 20, 40, 40)
MIDDLE = (10, 10, 60, 60)
WHOLE = (0, 0, 100, 100)
GROWN = grow(Box(29, 29, 31, 31), 28, (100, 100))
FIRST, SECOND = (0, 0, 20, 20), (50, 50, 70, 70)

ONE_CROP = [  # crop, nested boxes, overlap, IoU, r_iou, r_l1; an image of 100 x 100
    (INNER, [INNER], 1, 1, 1, 1),
    (INNER, [INNER, MIDDLE, WHOLE], 1, 1, 1, 1),
    (MIDDLE, [INNER, MIDDLE], 1, 1, 1, 1),
    (WHOLE, [INNER, MIDDLE, WHOLE], 1, 1, 1, 1),
    (INNER, [INNER, INNER], 1, 1, 1, 1),  # nested and equal
    (WHOLE, [INNER], 1, 0.04, 0.04, 0.6),
    (WHOLE, [INNER, INNER, INNER], 1, 0.04, 0.04, 0.6),
    (WHOLE, [INNER, MIDDLE], 1, 0.25, 0.25, 1 - 100 / 400),
    ((15, 15, 50, 50), [INNER, MIDDLE], 1, 0.49, 0.49, 0.925),
    ((17, 17, 50, 50), [INNER, MIDDLE], 1, 0.4356, 0.4356, 0.935),  # IoU of one, corners of other
    ((20, 20, 40, 38), [INNER], 0.9, 0.9, 0, 0.995),  # exactly tau
    ((22, 20, 40, 40), [INNER], 0.9, 0.9, 0, 0.995),
    ((20, 20, 40, 38), [INNER, MIDDLE], 0.9, 0.9, 0, 0.995),
    ((20, 20, 40, 38.2), [INNER], 0.91, 0.91, 0.91, 0.9955),  # just above
    ((20, 20, 40, 37.8), [INNER], 0.89, 0.89, 0, 0.9945),  # just below
    ((10, 22, 60, 60), [INNER, MIDDLE], 0.9, 0.76, 0, 0.97),
    ((10, 21, 60, 60), [INNER, MIDDLE], 0.95, 0.78, 0.78, 0.9725),
    ((40, 20, 60, 40), [INNER], 0, 0, 0, 0.9),  # touching sides
    ((40, 40, 60, 60), [INNER], 0, 0, 0, 0.8),  # touching corners
    ((80, 80, 100, 100), [INNER], 0, 0, 0, 0.4),
    ((45, 45, 60, 60), [INNER, MIDDLE], 0, 0.09, 0, 0.825),  # only in the outer box
    ((25, 25, 35, 35), [INNER], 0.25, 0.25, 0, 0.95),
    ((30, 20, 50, 40), [INNER], 0.5, 1 / 3, 0, 0.95),
    ((30, 30, 30, 30), [INNER], 0, 0, 0, 0.9),  # zero area
    ((20, 20, 40, 20), [INNER], 0, 0, 0, 0.95),  # zero area, on an edge
    (GROWN, [INNER], 1, 400 / 784, 400 / 784, 0.96),
    ((0, 0, 40, 40), [INNER], 1, 0.25, 0.25, 0.9),  # clamped at the image's corner
    (WHOLE, [WHOLE], 1, 1, 1, 1),
    ((90, 90, 100, 100), [(90, 90, 110, 110)], 1, 1, 1, 1),  # a target that sticks out
]


def check(found, overlap, iou, r_iou, r_l1, w=0.5):
    expected = Grounded(*map(float, (overlap, iou, r_iou, r_l1, w * r_iou + (1 - w) * r_l1)))
    assert astuple(found) == pytest.approx(astuple(expected), abs=1e-12)
    assert found.r_iou != 0 or r_iou == 0
    assert r_iou != 0 or found.r_iou == 0


@pytest.mark.parametrize(("crop", "boxes", "overlap", "iou", "r_iou", "r_l1"), ONE_CROP)
def test_one_crop_by_hand(crop, boxes, overlap, iou, r_iou, r_l1):
    trajectory, sample = episode(crop_turn(*crop)), record(targets=[boxes])
    check(ground(trajectory, sample, Grounding()), overlap, iou, r_iou, r_l1)
    check(ground(trajectory, sample, Grounding(tau=None)), overlap, iou, iou, r_l1)
    check(ground(trajectory, sample, Grounding(w=1.0)), overlap, iou, r_iou, r_l1, w=1)
    check(ground(trajectory, sample, Grounding(w=0.0)), overlap, iou, r_iou, r_l1, w=0)


def test_the_ablations_by_hand():
    trajectory = episode(crop_turn(45, 45, 60, 60))
    sample = record(targets=[[INNER, MIDDLE]])
    for settings, r_geo in (
        (Grounding(), 0.4125),
        (Grounding(tau=None), (0.09 + 0.825) / 2),  # no threshold
        (Grounding(w=0.0), 0.825),  # no IoU reward
        (Grounding(w=1.0), 0),  # no corners, as in Table 10
        (Grounding(tau=None, w=1.0), 0.09),
        (Grounding(w=0.2), 0.66),
    ):
        assert ground(trajectory, sample, settings).r_geo == pytest.approx(r_geo)


@pytest.mark.parametrize(
    ("tau", "crop", "r_iou"),
    [
        (0.0, (40, 20, 60, 40), 0),
        (0.0, (39, 20, 60, 40), 20 / 800),
        (0.25, (25, 25, 35, 35), 0),
        (0.24, (25, 25, 35, 35), 0.25),
        (0.95, (20, 20, 40, 39), 0),
        (0.95, (20, 20, 40, 39.2), 0.96),
    ],
)
def test_other_thresholds(tau, crop, r_iou):
    found = ground(episode(crop_turn(*crop)), record(targets=[[INNER]]), Grounding(tau=tau))
    assert found.r_iou == pytest.approx(r_iou)


def test_corners_are_measured_in_sides_of_the_image():
    wide = episode(crop_turn(20, 20, 60, 40), size=(200, 100))
    check(ground(wide, record(targets=[[INNER]]), Grounding()), 1, 0.5, 0.5, 0.975)
    tall = episode(crop_turn(20, 20, 40, 60), size=(100, 200))
    check(ground(tall, record(targets=[[INNER]]), Grounding()), 1, 0.5, 0.5, 0.975)
    small = episode(crop_turn(20, 20, 60, 40), size=(100, 100))
    check(ground(small, record(targets=[[INNER]]), Grounding()), 1, 0.5, 0.5, 0.95)


@pytest.mark.parametrize(
    ("which", "r_iou", "r_l1"),
    [
        ("last", 0.04, 0.6),
        ("first", 0, 0.995),
        ("best", 1, 1),
        ("mean", 1.04 / 3, 2.595 / 3),
    ],
)
def test_which_crop_is_rewarded_and_that_what_is_measured_does_not_depend_on_it(which, r_iou, r_l1):
    """Of the two crops that hold all of the target the tighter one is measured, the second."""
    crops = (crop_turn(20, 20, 40, 38), refused_turn(), crop_turn(*INNER), crop_turn(*WHOLE))
    trajectory = episode(*crops, refused_turn(), answer="A")
    found = ground(trajectory, record(targets=[[INNER]]), Grounding(crop=which))
    check(found, 1, 1, r_iou, r_l1)


SEVERAL = [  # crops, which, overlap, IoU, r_iou, r_l1 for FIRST and SECOND
    ([FIRST, SECOND], "last", 1, 1, 1, 1),
    ([SECOND, FIRST], "last", 1, 1, 1, 1),
    ([FIRST, SECOND], "mean", 1, 1, 1, 1),
    ([FIRST], "last", 0.5, 0.5, 0.5, 0.75),
    ([FIRST, FIRST], "last", 0.5, 0.5, 0.5, 0.75),
    ([WHOLE], "last", 1, 0.04, 0.04, 0.6),
    ([WHOLE, FIRST], "last", 1, 0.52, 0.52, 0.8),  # the target of both takes the last
    ([WHOLE, FIRST], "first", 1, 0.52, 0.04, 0.6),
    ([FIRST, WHOLE], "best", 1, 0.52, 0.52, 0.8),
    ([FIRST, WHOLE], "mean", 1, 0.52, (0.52 + 0.04) / 2, (0.8 + 0.6) / 2),
    ([(0, 0, 20, 18), SECOND], "last", 0.95, 0.95, 0.5, 0.9975),
    ([(0, 0, 20, 10), (0, 0, 20, 16), SECOND], "first", 0.9, 0.9, 0.5, 0.995),
    ([(80, 80, 100, 100)], "last", 0, 0, 0, (0.2 + 0.7) / 2),
    ([FIRST, (80, 80, 100, 100)], "last", 0.5, 0.5, 0.5, (1 + 0.7) / 2),
]


@pytest.mark.parametrize(("crops", "which", "overlap", "iou", "r_iou", "r_l1"), SEVERAL)
def test_two_targets_by_hand(crops, which, overlap, iou, r_iou, r_l1):
    trajectory = episode(*(crop_turn(*crop) for crop in crops))
    for targets in ([[FIRST], [SECOND]], [[SECOND], [FIRST]]):
        found = ground(trajectory, record(targets=targets), Grounding(crop=which))
        check(found, overlap, iou, r_iou, r_l1)


def test_without_a_crop_all_is_zero_and_without_targets_nothing_is_measured():
    for turns in ((), (refused_turn(),), (refused_turn(), refused_turn())):
        for which in ("last", "first", "best", "mean"):
            found = ground(episode(*turns), record(targets=[[INNER]]), Grounding(crop=which))
            check(found, 0, 0, 0, 0)
        assert ground(episode(*turns), record(), Grounding()) is None


def test_the_box_that_was_cut_is_scored_not_the_one_that_was_written():
    turn = crop_turn(*INNER)
    moved = type(turn.crop)(written=(0.0, 0.0, 1.0, 1.0), box=turn.crop.box)
    turn = type(turn)(**{**turn.__dict__, "crop": moved})
    check(ground(episode(turn), record(targets=[[INNER]]), Grounding()), 1, 1, 1, 1)


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(20, 20, 20, 40)],
        [(20, 20, 10, 10)],
        [(200, 200, 300, 300)],
        [(20, 20, math.nan, 40)],
        [(20, 20, 40, 40), (20, 20, math.inf, 40)],
        [MIDDLE, INNER],
    ],
)
def test_a_target_that_is_none_is_named(boxes):
    for turns in ((), (crop_turn(*INNER),)):
        with pytest.raises(ValueError, match=r"record 'r': target "):
            ground(episode(*turns), record(targets=[boxes]), Grounding())


@pytest.mark.parametrize("wrong", [{"tau": 1.0}, {"tau": -0.1}, {"w": 1.1}, {"w": math.nan}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="grounding: "):
        Grounding(**wrong)


boxes = st.builds(
    lambda x, y, w, h: Box(x, y, min(x + w, 100.0), min(y + h, 100.0)),
    *[st.integers(0, 99).map(float)] * 2,
    *[st.integers(1, 100).map(float)] * 2,
)
which = st.sampled_from(["last", "first", "best", "mean"])
settings = st.builds(
    Grounding,
    tau=st.none() | st.floats(0, 0.99),
    w=st.floats(0, 1),
    crop=which,
)
paddings = st.tuples(*[st.integers(0, 30).map(float)] * 4)
EXTENT = (100, 100)


def padded(box, padding):
    left, top, right, bottom = padding
    return Box(
        max(box.x1 - left, 0.0),
        max(box.y1 - top, 0.0),
        min(box.x2 + right, 100.0),
        min(box.y2 + bottom, 100.0),
    )


targets = st.lists(
    st.builds(lambda box, pad: [box, padded(box, pad)], boxes, paddings), min_size=1, max_size=3
)


@given(st.lists(boxes, max_size=4), targets, settings)
def test_bounds(crops, several, chosen):
    found = ground_boxes(crops, several, EXTENT, chosen)
    assert all(0 <= value <= 1 + 1e-12 for value in astuple(found))
    assert len(crops) != 1 or found.r_iou <= found.iou
    low, high = sorted((found.r_iou, found.r_l1))
    assert low - 1e-12 <= found.r_geo <= high + 1e-12


@pytest.mark.seconds
@given(st.lists(boxes, min_size=1, max_size=4), boxes, targets, settings)
def test_another_crop_never_lowers_the_overlap(crops, more, several, chosen):
    """Wherever it comes in the episode, nor does the order of crops matter."""
    before = ground_boxes(crops, several, EXTENT, chosen)
    for longer in ([*crops, more], [more, *crops]):
        after = ground_boxes(longer, several, EXTENT, chosen)
        assert after.overlap >= before.overlap - 1e-9
    turned = ground_boxes(crops[::-1], several, EXTENT, chosen)
    assert (turned.overlap, turned.iou) == pytest.approx((before.overlap, before.iou), abs=1e-8)


@given(boxes, boxes, paddings)
def test_a_larger_crop_never_covers_less(crop, inner, pad):
    small = ground_boxes([crop], [[inner]], EXTENT, Grounding())
    large = ground_boxes([padded(crop, pad)], [[inner]], EXTENT, Grounding())
    assert large.overlap >= small.overlap - 1e-12


@given(boxes, paddings, paddings)
def test_iou_falls_with_every_pixel_too_many(inner, pad, more):
    around = padded(inner, pad)
    tight = ground_boxes([around], [[inner]], EXTENT, Grounding())
    loose = ground_boxes([padded(around, more)], [[inner]], EXTENT, Grounding())
    assert tight.overlap == loose.overlap == 1
    assert tight.r_iou >= loose.r_iou
    assert tight.r_l1 >= loose.r_l1 - 1e-12


@given(boxes, paddings, paddings)
def test_iou_rises_with_every_pixel_covered(inner, pad, more):
    part = padded(inner, pad)
    target = padded(part, more)
    less = ground_boxes([inner], [[target]], EXTENT, Grounding())
    fuller = ground_boxes([part], [[target]], EXTENT, Grounding())
    assert fuller.iou >= less.iou
    assert fuller.overlap >= less.overlap
    assert fuller.r_iou >= less.r_iou


@given(boxes, boxes, paddings, settings)
def test_another_context_box_never_costs(crop, inner, pad, chosen):
    alone = ground_boxes([crop], [[inner]], EXTENT, chosen)
    with_context = ground_boxes([crop], [[inner, padded(inner, pad)]], EXTENT, chosen)
    assert with_context.overlap == alone.overlap
    assert with_context.r_iou >= alone.r_iou
    assert with_context.r_l1 >= alone.r_l1


@given(boxes, targets, st.floats(0, 0.98), st.floats(0, 0.98))
def test_a_higher_threshold_never_pays_more(crop, several, one, other):
    low, high = sorted((one, other))
    lenient, strict, free = (
        ground_boxes([crop], several, EXTENT, Grounding(tau=tau)) for tau in (low, high, None)
    )
    assert strict.r_iou <= lenient.r_iou <= free.r_iou == free.iou


frames = st.builds(
    lambda width, height: Frame(original=EXTENT, shown=(width, height)),
    *[st.integers(1, 3000)] * 2,
)


@given(
    st.lists(boxes, min_size=1, max_size=3),
    targets,
    frames,
    st.sampled_from(["shown", "unit", "percent", "mille"]),
    st.sampled_from([None, 0.0, 0.5, 0.9]),
    which,
)
def test_the_convention_of_coordinates_is_nothing(crops, several, frame, convention, tau, chosen):
    def moved(box):
        return frame.to(box, "original", convention)

    how = Grounding(tau=tau, crop=chosen)
    here = ground_boxes(crops, several, EXTENT, how)
    there = ground_boxes(
        [moved(crop) for crop in crops],
        [[moved(box) for box in target] for target in several],
        frame.extent(convention),
        how,
    )
    if chosen == "best":
        assert there.r_geo == pytest.approx(here.r_geo, abs=1e-7)
    else:
        assert astuple(there) == pytest.approx(astuple(here), abs=1e-7)


@pytest.mark.parametrize("width", [28, 588, 1176, 2999])
@pytest.mark.parametrize("convention", ["shown", "unit", "percent", "mille"])
def test_exactly_tau_earns_nothing_in_any_convention(width, convention):
    frame = Frame(original=(4032, 3024), shown=(width, width + 13))
    for x in range(0, 900, 7):
        target, crop = Box(x, 30.0, x + 90.0, 130.0), Box(x, 40.0, x + 90.0, 130.0)
        target, crop = (frame.to(box, "original", convention) for box in (target, crop))
        found = ground_boxes([crop], [[target]], frame.extent(convention), Grounding())
        assert found.overlap == pytest.approx(0.9)
        assert found.r_iou == 0
