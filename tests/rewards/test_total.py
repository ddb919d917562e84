import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfpc_jax.rewards.accuracy import grade
from lfpc_jax.rewards.grounding import Grounding
from lfpc_jax.rewards.judge import Judge, JudgeSettings
from lfpc_jax.rewards.total import OwnReward, Rewards, compute_rewards
from support.handmade import crop_turn, episode, record, refused_turn
from support.judge_server import JudgeServer, drip, hang_up, late, raw, say, status

STAGE_I, STAGE_II = Rewards(), Rewards(grounding=1.0)
TARGET = (20, 20, 40, 40)
SAMPLE = record("A", ("red", "blue"), targets=[[TARGET]])
PLAIN = record("A", ("red", "blue"))
FREE = record("red", ())
EXACT = crop_turn(*TARGET)
LOOSE = crop_turn(0, 0, 100, 100)
BESIDE = crop_turn(40, 20, 60, 40)
SHOUTED = "A" + " " * 999  # too long an answer: a fault of format, and not read by rule


def total(trajectory, sample, settings, judge=None):
    (reward,) = compute_rewards([trajectory], {"r": sample}, settings, judge)
    return reward


TABLE = [  # settings, turns, answer, record, total
    (STAGE_I, [EXACT], "A", PLAIN, 2.0),
    (STAGE_I, [EXACT, LOOSE, refused_turn()], "A", PLAIN, 2.0),
    (STAGE_I, [], "A", PLAIN, 0.8),
    (STAGE_I, [refused_turn()], "A", PLAIN, 0.8),
    (STAGE_I, [EXACT], "B", PLAIN, 0.0),
    (STAGE_I, [], "B", PLAIN, 0.0),
    (STAGE_I, [], "A or B", PLAIN, 0.0),
    (STAGE_I, [], "crimson", PLAIN, 0.0),  # nobody can tell: wrong without a judge
    (STAGE_I, [EXACT], None, PLAIN, -0.2),
    (STAGE_I, [], None, PLAIN, -0.2),
    (STAGE_I, [refused_turn()], None, PLAIN, -0.2),
    (STAGE_I, [EXACT], SHOUTED, PLAIN, -0.2),
    (STAGE_I, [EXACT], "A", SAMPLE, 2.0),  # boxes are measured and not paid
    (STAGE_II, [EXACT], "A", SAMPLE, 3.0),
    (STAGE_II, [EXACT], "B", SAMPLE, 1.0),  # not gated
    (STAGE_II, [EXACT], None, SAMPLE, 0.8),
    (STAGE_II, [], "A", SAMPLE, 0.8),
    (STAGE_II, [refused_turn()], "A", SAMPLE, 0.8),
    (STAGE_II, [LOOSE], "A", SAMPLE, 2.0 + 0.32),
    (STAGE_II, [BESIDE], "A", SAMPLE, 2.0 + 0.45),
    (STAGE_II, [BESIDE], "B", SAMPLE, 0.45),
    (STAGE_II, [EXACT], "A", PLAIN, 2.0),  # mixed data: no boxes, no r_geo
    (replace(STAGE_II, grounding=2.0), [LOOSE], "A", SAMPLE, 2.0 + 0.64),
    (replace(STAGE_II, grounding_needs_answer=True), [EXACT], "A", SAMPLE, 3.0),
    (replace(STAGE_II, grounding_needs_answer=True), [EXACT], "B", SAMPLE, 0.0),
    (replace(STAGE_II, boxes=Grounding(w=1.0)), [BESIDE], "A", SAMPLE, 2.0),
    (replace(STAGE_II, boxes=Grounding(w=0.0)), [BESIDE], "A", SAMPLE, 2.9),
    (replace(STAGE_II, boxes=Grounding(crop="first")), [EXACT, LOOSE], "A", SAMPLE, 3.0),
    (replace(STAGE_II, boxes=Grounding(crop="last")), [EXACT, LOOSE], "A", SAMPLE, 2.32),
    (replace(STAGE_I, tool=0.0), [EXACT], "A", PLAIN, 0.8),
    (Rewards(accuracy=1.0, format=0.5, tool=0.25), [EXACT], "A", PLAIN, 1.25),
    (Rewards(accuracy=1.0, format=0.5, tool=0.25), [EXACT], None, PLAIN, -0.5),
]


@pytest.mark.parametrize(("settings", "turns", "answer", "sample", "expected"), TABLE)
def test_totals_by_hand(settings, turns, answer, sample, expected):
    reward = total(episode(*turns, answer=answer), sample, settings)
    assert reward.total == pytest.approx(expected, abs=1e-12)
    assert not reward.masked
    assert reward.faults == ()


def test_a_right_answer_badly_written():
    good = episode(EXACT, answer="A")
    last = replace(good.turns[-1], text=good.turns[-1].text + " for sure")
    reward = total(replace(good, turns=(*good.turns[:-1], last)), PLAIN, STAGE_I)
    assert (reward.accuracy, reward.format, reward.tool) == (1, -1, 1)
    assert reward.total == pytest.approx(0.8 - 0.2 + 1.2)


def test_every_part_is_kept_apart():
    own = OwnReward("turns", 0.1, lambda trajectory, sample: len(trajectory.turns))
    settings = replace(STAGE_II, own=(own,))
    reward = total(episode(LOOSE, answer="B", rollout=3), SAMPLE, settings)
    assert (reward.record, reward.rollout) == ("r", 3)
    assert (reward.accuracy, reward.format, reward.tool) == (0, 0, 1)
    assert reward.boxes.r_iou == pytest.approx(0.04)
    assert reward.boxes.r_l1 == pytest.approx(0.6)
    assert reward.own == {"turns": 2.0}
    assert not reward.judged
    assert reward.total == pytest.approx(0.32 + 0.2)
    assert total(episode(LOOSE, answer="B"), PLAIN, settings).boxes is None


def test_each_trajectory_meets_its_own_record_and_keeps_its_place():
    records = {"x": replace(PLAIN, id="x"), "y": replace(PLAIN, id="y", answer="B")}
    order = ["x", "y", "y", "x"]
    given = [episode(answer="B", name=name, rollout=n) for n, name in enumerate(order)]
    found = compute_rewards(given, records, STAGE_I)
    assert [(reward.record, reward.rollout) for reward in found] == list(zip(order, range(4)))
    assert [reward.accuracy for reward in found] == [0, 1, 1, 0]
    with pytest.raises(ValueError, match=r"record 'z', rollout 7: .* the 2 given"):
        compute_rewards([episode(name="z", rollout=7)], records, STAGE_I)


def raising(trajectory, sample):
    raise KeyError("box")


def meddling(name):
    def reward(trajectory, sample):
        getattr(trajectory, name)[:] = 0
        return 1.0

    return reward


BAD_VALUES = [
    (lambda t, r: math.nan, "returned nan"),
    (lambda t, r: math.inf, "returned inf"),
    (lambda t, r: -math.inf, "returned -inf"),
    (lambda t, r: None, "returned None"),
    (lambda t, r: [1.0], "TypeError"),
    (lambda t, r: "high", "ValueError"),
    (lambda t, r: 1 / 0, "ZeroDivisionError"),
    (raising, "KeyError: 'box'"),
    *((meddling(name), "ValueError: assignment destination is read-only")
      for name in ("ids", "sampled", "logprobs", "policy_logprobs")),
]  # fmt: skip
KINDS = {f"returned {value}": "not finite" for value in ("nan", "inf", "-inf")}
"""What those that say which value are counted as."""


@pytest.mark.parametrize(("function", "named"), BAD_VALUES)
def test_a_reward_of_ones_own_that_fails_masks_its_sample_and_says_so(function, named):
    settings = replace(
        STAGE_I, own=(OwnReward("mine", 0.5, function), OwnReward("fine", 2.0, lambda t, r: 0.25))
    )
    reward = total(episode(EXACT, answer="A", rollout=2), PLAIN, settings)
    assert reward.masked
    assert reward.total is None
    assert reward.own == {"mine": None, "fine": 0.25}
    assert (reward.accuracy, reward.format, reward.tool) == (1, 0, 1)
    (fault,) = reward.faults
    assert fault.part == "mine"
    assert fault.kind == f"mine: {KINDS.get(named, named.partition(':')[0])}"
    assert "record 'r', rollout 2" in fault.reason
    assert named in fault.reason


def test_a_total_that_overflows_is_masked():
    """A step of float64's largest twice is infinite, and so would be its group's mean."""
    own = tuple(OwnReward(name, 1e308, lambda t, r: 1.0) for name in ("mine", "yours"))
    reward = total(episode(EXACT, answer="A"), PLAIN, replace(STAGE_I, own=own))
    assert reward.masked
    assert [fault.kind for fault in reward.faults] == ["total: not finite"]


def test_bad_records_are_masked_and_named():
    for sample in (
        replace(PLAIN, answer="Q"),
        replace(PLAIN, targets=(((20.0, 20.0, 20.0, 40.0),),)),
        replace(PLAIN, targets=(((20.0, 20.0, math.nan, 40.0),),)),
    ):
        reward = total(episode(EXACT, answer="A"), sample, STAGE_II)
        assert reward.masked
        assert [fault.part for fault in reward.faults] == ["record"]
        assert "record 'r'" in reward.faults[0].reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"accuracy": math.nan},
        {"grounding": math.inf},
        {"own": (OwnReward("mine", math.nan, raising),)},
        {"own": (OwnReward("tool", 1.0, raising),)},
        {"own": (OwnReward("judge", 1.0, raising),)},
        {"own": (OwnReward("total", 1.0, raising),)},
        {"own": (OwnReward("masked", 1.0, raising),)},
        {"own": (OwnReward("undecided", 1.0, raising),)},
        {"own": (OwnReward("iou", 1.0, raising),)},
        {"own": (OwnReward("", 1.0, raising),)},
        {"own": (OwnReward("mine", 1.0, raising), OwnReward("mine", 1.0, raising))},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="rewards: "):
        Rewards(**wrong)


def judge_at(server, folder):
    return Judge(
        JudgeSettings(
            server.url,
            "m",
            str(folder),
            attempts=2,
            first_wait=0.01,
            reply_seconds=0.2,
            batch_seconds=5.0,
        )
    )


UNAVAILABLE = [status(500), status(429), status(401), hang_up, drip, late(0.5, say("no"))]
GARBAGE = [say("maybe"), say("0"), raw(b"false"), raw(b"")]


@pytest.mark.parametrize("failure", [*UNAVAILABLE, *GARBAGE])
def test_no_failure_of_the_judge_ever_scores(tmp_path, failure):
    given = [episode(EXACT, answer=answer, rollout=n) for n, answer in enumerate(["crimson", "A"])]
    with JudgeServer(lambda index, claim: failure) as server:
        open_, sure = compute_rewards(given, {"r": SAMPLE}, STAGE_II, judge_at(server, tmp_path))
    assert open_.masked
    assert open_.accuracy is None
    assert open_.judged
    assert [fault.part for fault in open_.faults] == ["judge"]
    assert (open_.format, open_.tool, open_.boxes.r_geo) == (0, 1, 1)
    assert sure.total == 3
    assert not sure.judged


def test_the_judge_is_asked_only_what_the_rules_cannot_tell(tmp_path):
    answers = ["A", "B", "crimson", "navy", None, "", "A or B", "crimson"]
    given = [episode(answer=answer, rollout=n) for n, answer in enumerate(answers)]
    asked = []

    def behave(index, claim):
        asked.append(claim)
        return say("yes" if claim["answer"] == "crimson" else "no")

    with JudgeServer(behave) as server:
        found = compute_rewards(given, {"r": PLAIN}, STAGE_I, judge_at(server, tmp_path))
    assert [reward.accuracy for reward in found] == [1, 0, 1, 0, 0, 0, 0, 1]
    assert [reward.judged for reward in found] == [0, 0, 1, 1, 0, 0, 0, 1]
    assert not any(reward.undecided for reward in found)
    alone = compute_rewards(given, {"r": PLAIN}, STAGE_I)
    assert [reward.undecided for reward in alone] == [0, 0, 1, 1, 0, 0, 0, 1]
    assert sorted(claim["answer"] for claim in asked) == ["crimson", "navy"]
    assert asked[0]["question"] == "What color is the bag?\nA. red\nB. blue"
    assert asked[0]["reference"] == "A. red"


def test_a_judge_decides_free_answers(tmp_path):
    with JudgeServer(lambda index, claim: say("yes")) as server:
        (verdict,) = grade([("crimson", FREE)], judge_at(server, tmp_path))
        assert verdict.right is True
        body = server.requests[0][3]["messages"][1]["content"]
        assert '"reference": "red"' in body
    (verdict,) = grade([("crimson", FREE)], None)
    assert (verdict.right, verdict.judged) == (False, False)


@given(
    turns=st.lists(st.sampled_from([EXACT, LOOSE, BESIDE, refused_turn()]), max_size=4),
    answer=st.sampled_from(["A", "B", "A or B", "crimson", SHOUTED, None]),
    sample=st.sampled_from([SAMPLE, PLAIN]),
)
def test_totals_are_bounded_and_stage_two_never_takes(turns, answer, sample):
    trajectory = episode(*turns, answer=answer)
    one, two = (total(trajectory, sample, settings) for settings in (STAGE_I, STAGE_II))
    assert -0.2 <= one.total <= 2.0
    assert one.total <= two.total <= one.total + 1
    assert one.boxes == two.boxes
