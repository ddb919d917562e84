"""IoU, recall, full recall and size of boxes, worked by hand."""

import numpy as np
import pytest

from lfpc_jax.evaluation.answers import graded
from lfpc_jax.evaluation.box_metrics import box_metrics
from lfpc_jax.evaluation.intervals import mean
from lfpc_jax.evaluation.measures import gather
from lfpc_jax.trajectory import Crop, Group, Trajectory, Turn
from support.played import IMAGE, Said, episode, record

TARGET = (40.0, 40.0, 60.0, 60.0)


def proposal(box, name):
    """An image of 100 x 100; None stands for a box that could not be read."""
    crop = None if box is None else Crop(box, box)
    turn = Turn(0, 0, "", call=True, crop=crop, fault="" if box else "no_box")
    end = "proposed" if box else "max_turns"
    nothing = np.zeros(0, np.float32)
    return Trajectory(
        name, 0, np.zeros(0, np.int32), np.zeros(0, bool), nothing, nothing, (100, 100), (56, 56),
        (turn,), end, "A",
    )  # fmt: skip


def measured(*questions):
    """Each question is its targets, and the boxes of its rollouts."""
    groups = [
        Group(record(f"r{n}", targets=[[t] for t in targets]),
              tuple(proposal(box, f"r{n}") for box in boxes))
        for n, (targets, *boxes) in enumerate(questions)
    ]  # fmt: skip
    answered = graded(groups, IMAGE, None)
    return box_metrics(answered), gather([e for a in answered for e in a.episodes])


def values(found):
    return {name: None if one is None else one["value"] for name, one in found.items()}


@pytest.mark.parametrize(
    ("box", "iou", "recall", "full", "size"),
    [
        (TARGET, 1, 1, 1, 0.04),
        ((30.0, 30.0, 70.0, 70.0), 400 / 1600, 1, 1, 0.16),
        ((50.0, 40.0, 70.0, 60.0), 200 / 600, 0.5, 0, 0.04),
        ((50.0, 50.0, 100.0, 100.0), 100 / 2800, 0.25, 0, 0.25),
        ((0.0, 0.0, 100.0, 100.0), 0.04, 1, 1, 1),
        ((0.0, 0.0, 40.0, 100.0), 0, 0, 0, 0.4),
        ((40.0, 40.0, 60.0, 59.0), 380 / 400, 0.95, 0, 0.038),
    ],
)
def test_one_box_and_one_target(box, iou, recall, full, size):
    found, means = measured([[TARGET], box])
    assert values(found) == pytest.approx(
        {"iou": iou, "recall": recall, "full_recall": full, "size": size, "invalid": 0,
         "iou_valid": iou, "recall_valid": recall}
    )  # fmt: skip
    assert means["crop/full"] == full
    assert means["crop/area_ratio"] == pytest.approx(size)


def test_several_targets_are_averaged_and_full_needs_all():
    """The second target of 10 x 10 is covered by half."""
    other = (65.0, 40.0, 75.0, 50.0)
    found, _ = measured([[TARGET, other], (40.0, 40.0, 70.0, 60.0)])
    assert values(found) == pytest.approx(
        {"iou": (400 / 600 + 50 / 650) / 2, "recall": 0.75, "full_recall": 0, "size": 0.06,
         "invalid": 0, "iou_valid": (400 / 600 + 50 / 650) / 2, "recall_valid": 0.75}
    )  # fmt: skip
    found, _ = measured([[TARGET, other], (40.0, 40.0, 75.0, 60.0)])
    assert found["full_recall"]["value"] == 1


def test_an_invalid_box_counts_as_nothing_and_has_no_size():
    found, means = measured([[TARGET], TARGET], [[TARGET], None], [[TARGET], None])
    assert values(found) == pytest.approx(
        {"iou": 1 / 3, "recall": 1 / 3, "full_recall": 1 / 3, "size": 0.04, "invalid": 2 / 3,
         "iou_valid": 1, "recall_valid": 1}
    )  # fmt: skip
    assert found["size"]["samples"] == found["iou_valid"]["samples"] == 1
    assert found["iou"]["samples"] == 3
    assert means["crop/invalid"] == pytest.approx(2 / 3)
    found, _ = measured([[TARGET], None])
    assert found["size"] is found["iou_valid"] is None
    assert found["recall"]["value"] == 0


def test_records_without_targets_have_only_a_size():
    found, _ = measured([[], TARGET], [[TARGET], (0.0, 0.0, 100.0, 100.0)])
    assert found["iou"]["samples"] == 1
    assert found["size"]["samples"] == 2
    assert found["size"]["value"] == pytest.approx((0.04 + 1) / 2)


def test_rollouts_are_averaged_before_questions_and_intervals_count_questions():
    """Three rollouts of one question and one of another."""
    far = (0.0, 0.0, 20.0, 20.0)
    found, _ = measured([[TARGET], TARGET, far, None], [[TARGET], TARGET])
    assert found["recall"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["recall_valid"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    expected = mean([1 / 3, 1.0])
    assert (found["recall"]["low"], found["recall"]["high"]) == pytest.approx(
        (expected.low, expected.high)
    )


def test_a_model_with_the_zoom_tool_has_no_full_recall_among_its_measures():
    one = record("r", targets=[[TARGET]])
    played = episode(Said(1, box=TARGET), Said(1), name="r")
    [answered] = graded([Group(one, (played,))], IMAGE, None)
    assert "crop/full" not in gather(answered.episodes)
