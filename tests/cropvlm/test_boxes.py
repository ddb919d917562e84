"""Boxes that no crop network proposes, against numbers worked by hand."""

import numpy as np
import pytest

from lfpc_jax.cropvlm.boxes import boxes_of, drawn, expanded_box, true
from lfpc_jax.evaluation.conditions import (
    attended,
    expanded,
    factor_of,
    layer_of,
    of_boxes,
    ordered,
    suits,
)
from lfpc_jax.evaluation.journal import Trial
from lfpc_jax.processing.geometry import Box, area
from lfpc_jax.trajectory import Picture, Record

SIZE = (400, 200)


def record(*targets, name="r"):
    return Record(name, "?", "A", Picture("x"), targets=tuple((box,) for box in targets))


def test_the_whole_and_the_centre():
    assert boxes_of("whole")(record(), SIZE, 0) == (0, 0, 400, 200)
    assert boxes_of("centre")(record(), SIZE, 0) == (100, 50, 300, 150)
    assert boxes_of("direct")(record(), SIZE, 0) is None
    with pytest.raises(ValueError, match="no boxes are called 'corner'"):
        boxes_of("corner")


def test_of_several_targets_the_box_around_all():
    one, other = (10.0, 20.0, 30.0, 40.0), (100.0, 10.0, 110.0, 30.0)
    assert true(record(one), SIZE) == one
    assert true(record(one, other), SIZE) == (10, 10, 110, 40)
    nested = Record("r", "?", "A", Picture("x"), targets=((one, (0.0, 0.0, 90.0, 90.0)),))
    assert true(nested, SIZE) == one
    assert true(record((390.0, 190.0, 500.0, 300.0)), SIZE) == (390, 190, 400, 200)
    with pytest.raises(ValueError, match="record 'r' has no targets"):
        true(record(), SIZE)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, (180, 90, 220, 110)),
        (4.0, (160, 80, 240, 120)),
        (9.0, (140, 70, 260, 130)),
        (0.25, (190, 95, 210, 105)),
        (100.0, (0, 0, 400, 200)),  # ten times each side: exactly the image
        (1e4, (0, 0, 400, 200)),
    ],
)
def test_an_area_factor_is_about_the_centre(factor, expected):
    """Sides of 40 and 20 about (200, 100)."""
    box = Box(180.0, 90.0, 220.0, 110.0)
    assert expanded_box(box, factor, SIZE) == pytest.approx(expected)
    assert area(expanded_box(box, factor, SIZE)) == pytest.approx(min(factor, 100) * 800)


def test_what_lies_outside_is_cut_off_and_not_moved():
    """Of a box at the corner a quarter of the expansion remains, and nothing is shifted."""
    assert expanded_box(Box(0.0, 0.0, 40.0, 20.0), 9.0, SIZE) == (0, 0, 80, 40)
    assert boxes_of("true_x9")(record((0.0, 0.0, 40.0, 20.0)), SIZE, 0) == (0, 0, 80, 40)


def test_random_boxes_are_of_two_uniform_corners():
    """A side is a third of the image on average and varies by 1 / 18; an area is a ninth."""
    boxes = np.array([drawn(record(name=f"r{n}"), SIZE, 0, 0) for n in range(4000)])
    shares = boxes / np.array([*SIZE, *SIZE])
    assert (shares[:, :2] <= shares[:, 2:]).all()
    assert shares.min() >= 0
    assert shares.max() <= 1
    sides = shares[:, 2:] - shares[:, :2]
    assert sides.mean(0) == pytest.approx([1 / 3] * 2, abs=0.012)
    assert sides.var(0) == pytest.approx([1 / 18] * 2, abs=0.004)
    assert sides.prod(1).mean() == pytest.approx(1 / 9, abs=0.008)
    assert np.corrcoef(sides.T)[0, 1] == pytest.approx(0, abs=0.05)


def test_a_random_box_depends_on_the_seed_the_record_and_the_rollout():
    box = drawn(record(), SIZE, 0, 0)
    assert boxes_of("random", seed=0)(record(), SIZE, 0) == box
    assert len({box, drawn(record(), SIZE, 1, 0), drawn(record(), SIZE, 0, 1),
                drawn(record(name="s"), SIZE, 0, 0)}) == 4  # fmt: skip


def test_conditions_have_names_that_can_be_read():
    factors = (1.0, 2.25, 16.0, 0.5, 10000.0)
    names = [expanded(factor) for factor in factors]
    assert names == ["true", "true_x2.25", "true_x16", "true_x0.5", "true_x10000"]
    assert [factor_of(name) for name in names] == list(factors)
    assert [factor_of(name) for name in ("tool", "truth", "whole")] == [None] * 3
    assert layer_of(attended(22)) == 22
    assert layer_of("rel_att") is None
    for name in (*names, attended(3), "random"):
        assert Trial.of(Trial("a-b.c", 32, name).name) == Trial("a-b.c", 32, name)
        assert of_boxes(name)
    assert not any(map(of_boxes, ("tool", "direct", "noise", "truth")))
    for factor in (0.0, -1.0, float("nan"), 1e5):
        with pytest.raises(ValueError, match=r"true boxes may be scaled by 0\.01 to 10000"):
            expanded(factor)
    mixed = ["rel_att_9", "whole", "true_x16", "noise", "true", "direct", "true_x4", "tool"]
    assert ordered(mixed) == [
        "tool", "direct", "noise", "true", "true_x4", "true_x16", "whole", "rel_att_9"
    ]  # fmt: skip


def test_true_boxes_are_shown_where_there_are_some():
    assert suits("true", record((0.0, 0.0, 9.0, 9.0)))
    assert not suits("true_x4", record())
    assert suits("centre", record())
    text = Record("t", "?", "A", Picture())
    assert not suits("centre", text)
    assert suits("direct", text)
