"""A session on the model that ships: what it answers, and what an update changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lfpc_jax
from lfpc_jax import OptimizerSettings, Session, UpdateSettings, read_records
from lfpc_jax.cli import synthesize
from lfpc_jax.rewards.total import compute_rewards

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]

WARM = Path(lfpc_jax.__file__).parents[1] / "configs/micro/warm"


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "set"
    asked = ["--world", "micro", "--count", "12", "--longest-side", "56", "--nested", "1", "1.3"]
    assert synthesize.main([str(folder), *asked]) == 0
    assert len(read_records(str(folder), most=3)) == 3
    return read_records(str(folder))


@pytest.fixture(scope="module")
def session():
    config = lfpc_jax.load_config("stage1.py:micro")
    return Session.load(
        WARM,
        rollout=config.rollout,
        update=config.update,
        optimizer=OptimizerSettings(learning_rate=1e-4),
    )


@pytest.mark.long
def test_it_answers_questions_greedily(session, records):
    def ask(record):
        return session.ask(record.picture.path, record.question, longest_side=record.longest_side)

    groups = [ask(record) for record in records[:6]]
    episodes = [group.trajectories[0] for group in groups]
    assert all(episode.end == "answered" for episode in episodes)
    cropped = next(group for group in groups if group.crops[0])
    assert lfpc_jax.draw(cropped).width > 300
    again = ask(records[0]).trajectories[0]
    np.testing.assert_array_equal(episodes[0].ids, again.ids)


@pytest.mark.long
def test_an_update_makes_good_episodes_likelier_and_bad_ones_less_likely(session, records):
    groups = session.roll_out(records[:8], rollouts=8)
    assert [group.record for group in groups] == records[:8]
    with pytest.raises(ValueError, match="no advantages"):
        session.update(groups)
    rewarded = session.reward(groups)
    for group in rewarded:
        found = compute_rewards(
            group.trajectories, {group.record.id: group.record}, session.config.rewards
        )
        assert group.rewards == tuple(reward.parts for reward in found)
    varied = [group for group in rewarded if np.ptp([r["total"] for r in group.rewards]) > 0]
    assert len(varied) >= 2

    before = [session.logprobs(group) for group in varied]
    for group, logprobs in zip(varied, before):
        for trajectory, own in zip(group.trajectories, logprobs, strict=True):
            sampled = trajectory.policy_logprobs[trajectory.sampled]
            np.testing.assert_allclose(own, sampled, atol=1e-4)
    metrics = session.update(rewarded)
    assert metrics["gradient_norm"] > 0
    risen = [
        (group.advantages[number], after.sum() - now.sum())
        for group, was in zip(varied, before)
        for number, (after, now) in enumerate(zip(session.logprobs(group), was))
    ]
    advantages, changes = np.array(risen).T
    assert changes[advantages > 0.5].min() > 0
    assert changes[advantages < -0.5].mean() < 0

    again = session.roll_out(records[:8], rollouts=8)
    same = [
        np.array_equal(a.ids, b.ids)
        for old, new in zip(groups, again)
        for a, b in zip(old.trajectories, new.trajectories)
    ]
    assert not all(same), "rollouts are sampled from the new weights"
    with pytest.raises(ValueError, match="roll out again"):
        session.update(rewarded)


@pytest.mark.long
def test_a_record_may_have_several_groups(session, records):
    """Their crops are told apart: the update computes the sampler's log-probabilities again."""
    rolled = [session.roll_out(records[:3], rollouts=4, seed=seed) for seed in (1, 2)]
    pairs = [
        (one, other)
        for group, again in zip(*rolled)
        for one, other in zip(group.crops, again.crops)
        if one and other
    ]
    assert any(not np.array_equal(one[0], other[0]) for one, other in pairs)
    groups = [
        replace(group, advantages=np.array([1.0, -1.0, 0.5, -0.5]))
        for of_seed in rolled
        for group in of_seed
    ]
    metrics = session.update(groups)
    assert 0 < metrics["sampler_apart"] < 1e-4


def test_what_cannot_be_asked_says_why(session, records, tmp_path):
    with pytest.raises(ValueError, match="two have the same id"):
        session.roll_out([records[0], records[0]], rollouts=2)
    with pytest.raises(ValueError, match="gone"):
        session.ask(tmp_path / "gone.png", "Is it there?")
    archived = replace(session.ask(records[0].picture.path, "What?"), image=None)
    with pytest.raises(ValueError, match="does not hold the pictures"):
        lfpc_jax.draw(archived)


def test_settings_are_those_of_a_training_run():
    with pytest.raises(TypeError, match="unexpected keyword"):
        Session.load(WARM, rewrds=None)
    session = Session.load(WARM, update=UpdateSettings(epochs=2))
    assert session.config.update.epochs == 2
    assert session.config.rollout.convention == "percent"
    assert session.config.rollout.crop_tokens == 12
