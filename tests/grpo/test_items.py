"""How much each token of a mini-batch counts, by the published means."""

from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.grpo.advantage import with_advantages
from lfpc_jax.grpo.items import counts, items_of
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.grpo.updater import UpdateSettings, weighed
from support import random_groups
from support.updates import groups


def test_a_group_is_left_out_where_it_has_no_gradient():
    one, _, flat = groups()
    masked = replace(one, advantages=np.array([1.0, np.nan, -1.0]))
    assert counts(masked)[0] == 2
    kept = items_of([masked, flat], aggregate="token", episodes=4, tokens=40)
    assert [item.trajectory.rollout for item in kept] == [0, 2]
    every = items_of([masked, flat], aggregate="sequence", episodes=4, tokens=40, all_of_them=True)
    assert len(every) == 4
    for item in every:
        assert float(item.weights.sum()) == pytest.approx(1 / 4, rel=1e-6)
        assert (item.weights > 0).tolist() == item.trajectory.sampled.tolist()


@pytest.mark.parametrize("aggregate", ["token", "sequence"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_means_over_micro_batches_are_verls(aggregate, size):
    """Each micro-batch's `masked_mean`, over the number of them, as gradients accumulate there; an
    episode without a reward is masked, and a micro-batch of such alone is none."""
    found = [
        random_groups.rewarded(random_groups.group(np.random.default_rng(seed), name, 4), rewards)
        for seed, (name, rewards) in enumerate(
            {"a": (1.0, 0.0, 2.0, None), "b": (None, None, 0.0, 1.0), "c": (1.0,) * 4}.items()
        )
    ]
    losses, rng = {}, np.random.default_rng(0)
    means = []
    for one in found:
        name = one.record.id
        for first in range(0, 4, size):
            parts = []
            for t in one.trajectories[first : first + size]:
                losses[name, t.rollout] = rng.standard_normal(len(t.ids)) * t.sampled
                if not np.isnan(one.advantages[t.rollout]):
                    parts.append((losses[name, t.rollout].sum(), t.sampled.sum()))
            if parts and aggregate == "token":
                means.append(sum(a for a, _ in parts) / sum(n for _, n in parts))
            elif parts:
                means.append(np.mean([a / n for a, n in parts]))
    every = Objective(kl=0.1)  # episodes without an advantage have a gradient, too
    settings = UpdateSettings(aggregate=aggregate, micro_batch_mean=size, objective=every)
    items = weighed(found, settings)
    ours = sum(
        float((item.weights * losses[item.trajectory.record, item.trajectory.rollout]).sum())
        for item in items
    )
    assert len(items) == 9
    assert ours == pytest.approx(np.mean(means), rel=1e-5)
    assert sum(float(item.weights.sum()) for item in items) == pytest.approx(1, rel=1e-6)
    if size == 4 and aggregate == "token":
        whole = weighed(found, UpdateSettings(objective=every))
        apart = [np.abs(a.weights - b.weights).max() for a, b in zip(items, whole)]
        assert max(apart) > 1e-4, "the mean over the mini-batch is another"


@pytest.mark.parametrize("size", [0, 2])
def test_a_constant_length_and_no_deviation_are_dr_grpo(size):
    """Its objective in numbers: the sum over an episode's tokens of A times the token's term, over
    a constant, in the mean over episodes; a token weighs the same in an episode of any length."""
    rewards = {"a": (1.0, 0.0, 0.25, 0.25), "b": (3.0, 0.0, 0.0, 0.0)}
    found = [
        with_advantages(
            replace(
                random_groups.group(np.random.default_rng(seed), name, 4),
                rewards=tuple({"total": reward} for reward in mine),
            ),
            "none",
        )
        for seed, (name, mine) in enumerate(rewards.items())
    ]
    assert found[0].advantages.tolist() == [0.625, -0.375, -0.125, -0.125]
    assert found[1].advantages.tolist() == [2.25, -0.75, -0.75, -0.75]
    settings = UpdateSettings(
        aggregate="constant", constant_length=32, micro_batch_mean=size, deviation="none"
    )
    items = weighed(found, settings)
    assert len(items) == 8
    lengths = {int(item.trajectory.sampled.sum()) for item in items}
    assert len(lengths) > 1, "episodes of several lengths"
    for item in items:
        assert set(np.unique(item.weights)) == {np.float32(0), np.float32(1 / (8 * 32))}
        assert (item.weights > 0).tolist() == item.trajectory.sampled.tolist()
