"""The reward of a crop network's box, by hand: what the target said, how likely it finds the right
answer, and whether there was a box at all."""

import math
from dataclasses import replace

import pytest

from lfpc_jax.processing.geometry import Box
from lfpc_jax.rewards.total import OwnReward, Rewards, compute_rewards
from lfpc_jax.trajectory import Turn
from support.handmade import crop_turn, episode, record

ACCURACY = Rewards(accuracy=1.0, format=0.0, tool=0.0, valid=1.0)
LIKELIHOOD = Rewards(accuracy=0.0, format=0.0, tool=0.0, likelihood=1.0, valid=1.0)
TARGET = (20, 20, 40, 40)
RED = record("red", ())
VQA = replace(RED, references=("red",) * 2 + ("crimson",) * 8, metric="vqa")
ANLS = replace(RED, answer="crimson", references=("crimson",), metric="anls")
BOXED = record("red", (), targets=[[TARGET]])


def proposal(box=TARGET, **said):
    turn = crop_turn(*box) if box else Turn(0, 1, "over there", True, None, "no_box")
    made = episode(turn, answer="red")
    return replace(
        made,
        turns=made.turns[:1],
        end="proposed" if box else "max_turns",
        **{"answer": None} | said,
    )


def rewarded(trajectory, sample, settings):
    [reward] = compute_rewards([trajectory], {"r": sample}, settings, proposals=True)
    return reward


TABLE = [  # settings, box, what the target said, record, total, accuracy
    (ACCURACY, TARGET, {"answer": "red"}, RED, 2.0, 1),
    (ACCURACY, TARGET, {"answer": "blue"}, RED, 1.0, 0),
    (ACCURACY, TARGET, {"answer": ""}, RED, 1.0, 0),  # an empty answer is one
    (ACCURACY, None, {"answer": "red"}, RED, 1.0, 1),
    (ACCURACY, None, {"answer": "blue"}, RED, 0.0, 0),
    (ACCURACY, TARGET, {"answer": "Red."}, VQA, 1.6, 0.6),
    (ACCURACY, TARGET, {"answer": "crimsen"}, ANLS, 1 + 6 / 7, 6 / 7),
    (replace(ACCURACY, accuracy=0.5, valid=0.25), TARGET, {"answer": "red"}, RED, 0.75, 1),
    (LIKELIHOOD, TARGET, {"likelihood": -2.5}, RED, -1.5, None),
    (LIKELIHOOD, None, {"likelihood": -4.0}, RED, -4.0, None),
    (LIKELIHOOD, TARGET, {"likelihood": -2.5, "answer": "blue"}, RED, -1.5, 0),
    (replace(LIKELIHOOD, likelihood=0.1), TARGET, {"likelihood": -2.5}, RED, 0.75, None),
    (replace(LIKELIHOOD, accuracy=2.0), TARGET, {"likelihood": -2.5, "answer": "red"}, RED, 0.5, 1),
    (replace(ACCURACY, accuracy=0.0), TARGET, {}, RED, 1.0, None),
    (replace(ACCURACY, accuracy=0.0, grounding=1.0), TARGET, {}, BOXED, 2.0, None),
]


@pytest.mark.parametrize(("settings", "box", "said", "sample", "expected", "accuracy"), TABLE)
def test_totals_by_hand(settings, box, said, sample, expected, accuracy):
    reward = rewarded(proposal(box, **said), sample, settings)
    assert reward.total == pytest.approx(expected, abs=1e-12)
    assert reward.accuracy == (accuracy if accuracy is None else pytest.approx(accuracy))
    assert (reward.faults, reward.asked) == ((), accuracy is not None)


def test_parts_are_kept_where_they_are_used():
    said = {"answer": "red", "likelihood": -2.0}
    parts = rewarded(proposal(**said), RED, ACCURACY).parts
    assert parts == {"total": 2, "accuracy": 1, "valid": 1}
    parts = rewarded(proposal(**said), BOXED, replace(LIKELIHOOD, valid=0.0)).parts
    boxes = {"overlap", "iou", "r_iou", "r_l1", "r_geo"}
    assert {name: parts[name] for name in parts.keys() - boxes} == {
        "total": -2, "accuracy": 1, "likelihood": -2,
    }  # fmt: skip
    assert parts["iou"] == 1


@pytest.mark.parametrize("settings", [ACCURACY, LIKELIHOOD])
def test_an_episode_whose_target_could_not_be_asked_is_masked(settings):
    reward = rewarded(proposal(unanswered="HTTP 503"), RED, settings)
    assert reward.masked
    assert (reward.accuracy, reward.asked) == (None, True)
    [fault] = reward.faults
    assert (fault.part, fault.reason) == ("target", "record 'r', rollout 0: HTTP 503")
    assert reward.parts["total"] is None


@pytest.mark.parametrize(
    ("settings", "said", "part", "cause"),
    [
        (ACCURACY, {}, "target", "not asked"),
        (replace(LIKELIHOOD, grounding_needs_answer=True), {"likelihood": -1.0}, "target",
         "not asked"),
        (LIKELIHOOD, {}, "likelihood", "missing"),
        (LIKELIHOOD, {"answer": "red"}, "likelihood", "missing"),
        (LIKELIHOOD, {"likelihood": -math.inf}, "likelihood", "not finite"),
        (LIKELIHOOD, {"likelihood": math.nan}, "likelihood", "not finite"),
    ],
)  # fmt: skip
def test_what_the_total_needs_and_nobody_knows_masks(settings, said, part, cause):
    reward = rewarded(proposal(**said), RED, settings)
    assert reward.total is None
    assert [(fault.part, fault.cause) for fault in reward.faults] == [(part, cause)]
    assert all(value is None or math.isfinite(value) for value in reward.parts.values())


def test_rewards_of_ones_own_count_as_ever():
    own = OwnReward("small", 2.0, lambda t, r: 1 - Box(*t.turns[0].crop.box).x1 / 100)
    reward = rewarded(proposal(answer="red"), RED, replace(ACCURACY, own=(own,)))
    assert reward.total == pytest.approx(2 + 2 * 0.8)
    assert reward.parts["small"] == pytest.approx(0.8)


def test_a_conversation_without_an_answer_is_wrong_and_no_unknown():
    """Only a crop network's answers are asked of somebody else."""
    [reward] = compute_rewards([episode(answer=None)], {"r": RED}, replace(ACCURACY, valid=0.0))
    assert (reward.accuracy, reward.total, reward.asked) == (0, 0, True)
