"""Episodes small enough to count by hand."""

import pytest

from lfpc_jax.evaluation.measures import gather, measure
from lfpc_jax.rewards.grounding import Grounding
from lfpc_jax.rewards.total import Rewards, compute_rewards
from lfpc_jax.trajectory import Picture
from support.played import IMAGE, Said, episode, record


def busy():
    """A crop of 20x10 (3 tokens), a refusal, a crop of 50x50 (4 tokens), an answer."""
    return episode(
        Said(11, box=(0, 0, 20, 10), shown=3),
        Said(5, fault="bad_json"),
        Said(7, box=(10, 10, 60, 60), shown=4),
        Said(2),
    )


def test_an_episode_counted_by_hand():
    found = measure(busy(), record(targets=[[(10, 10, 60, 35)]]), 1.0, image_token=IMAGE)
    assert (found.turns, found.tokens, found.calls, found.crops) == (4, 25, 3, 2)
    assert found.areas == pytest.approx((0.02, 0.25))
    assert found.crop_tokens == (3, 4)
    assert found.faults == {"bad_json": 1}
    assert (found.end, found.right) == ("answered", 1.0)
    # the last crop covers the target, which is half of it
    assert (found.iou, found.overlap) == (0.5, 1.0)


def test_the_crop_that_holds_most_is_measured_whatever_the_reward_looks_at():
    """A crop of the target, then one of a corner: the last one is rewarded, with nothing."""
    one = episode(Said(2, box=(10, 10, 60, 60)), Said(2, box=(80, 80, 100, 100)), Said(1))
    asked = record(targets=[[(10, 10, 60, 35)]])
    for which in ("last", "first", "best", "mean"):
        [scores] = compute_rewards([one], {"r": asked}, Rewards(boxes=Grounding(crop=which)))
        for scored in (scores, 1.0):
            found = measure(one, asked, scored, image_token=IMAGE)
            assert (found.iou, found.overlap) == (0.5, 1.0)
    [last] = compute_rewards([one], {"r": asked}, Rewards())
    assert last.boxes.r_iou == 0


def test_scores_give_what_they_hold():
    one, asked = busy(), record(targets=[[(10, 10, 60, 35)]])
    [scores] = compute_rewards([one], {"r": asked}, Rewards())
    assert measure(one, asked, scores, image_token=IMAGE) == measure(
        one, asked, 1.0, image_token=IMAGE
    )


def test_means_counted_by_hand():
    boxed = record(targets=[[(10, 10, 60, 35)]])
    plain = episode(Said(3), end="no_action", answer=None)
    cut = episode(Said(9, call=True), end="max_turns", answer=None)
    found = gather(
        [
            measure(busy(), boxed, 1.0, image_token=IMAGE),
            measure(plain, boxed, 0.0, image_token=IMAGE),
            measure(cut, record(), None, image_token=IMAGE),
        ]
    )
    assert found == pytest.approx(
        {
            "crop/rate": 1 / 3,
            "crop/count": 2 / 3,
            "crop/iou": 0.25,  # over the two with targets, one of which has no crop
            "crop/overlap": 0.5,
            "crop/iou_cropped": 0.5,  # of the one with a crop
            "crop/overlap_cropped": 1.0,
            "crop/area_ratio": 0.135,
            "crop/tokens": 3.5,
            "crop/invalid": 0.25,  # one of four calls
            "fault/bad_json": 0.25,
            "end/answered": 1 / 3,
            "end/no_action": 1 / 3,
            "end/max_turns": 1 / 3,
            "end/max_tokens": 0.0,
            "end/context_full": 0.0,
            "episode/turns": 2.0,
            "episode/tokens": 37 / 3,
        }
    )


def test_nothing_measured_is_no_number():
    assert gather([]) == {}
    talk = episode(Said(3), size=(0, 0))
    found = gather([measure(talk, record(picture=Picture()), 1.0, image_token=IMAGE)])
    absent = {"crop/iou", "crop/overlap", "crop/iou_cropped", "crop/overlap_cropped"}
    absent |= {"crop/area_ratio", "crop/tokens", "crop/invalid"}
    assert not absent & set(found)
    assert found["crop/rate"] == found["crop/count"] == 0


def test_a_crop_whose_episode_ended_with_it_has_no_tokens_of_the_next():
    """The last turn's span reaches to the end of the ids, and no farther."""
    one = episode(Said(4, box=(0, 0, 100, 100), shown=6), Said(1), answer="B")
    assert measure(one, record(), 0.0, image_token=IMAGE).crop_tokens == (6,)
