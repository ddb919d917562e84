"""One batch learned by heart: the whole loop, from sampling to the optimizer, points the right way.

The model is random but for a liking for the words of an episode, so at first hardly one episode in
a hundred earns anything.
"""

from dataclasses import replace

import pytest

from lfpc_jax.cli import train
from lfpc_jax.data import layout
from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.grpo.updater import UpdateSettings
from lfpc_jax.rewards.total import Rewards
from lfpc_jax.run.folder import RunFolder
from support import micro, small
from support.left import metrics

STEPS = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("overfitting")
    small.hf_folder(path / "hf")
    layout.write(path / "set", [small.record(i) for i in range(4)])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reward_climbs_to_its_maximum(folder, seed, monkeypatch):
    """1.2 for a right answer after a crop, and nothing for any other episode: a box that is valid,
    a turn after it and the right word are all learned, in 18 steps of 96 episodes."""
    monkeypatch.setenv("MICRO", str(folder))
    config = micro.get_config()
    config = replace(
        config,
        steps=STEPS,
        seed=seed,
        data=replace(config.data, validation=()),
        rollout=replace(config.rollout, rollouts=24, slots=64, episode_tokens=24, max_turns=2),
        rewards=Rewards(accuracy=0.0, format=0.0),
        update=UpdateSettings(mini_batch=4, rows=1),
        optimizer=OptimizerSettings(learning_rate=1e-3),
        checkpoint_every=STEPS,
        trajectories_every=STEPS,
    )
    run = RunFolder(folder / f"run{seed}")
    train.train(config, run)
    rewards = [values["reward/total"] for values in metrics(run.path).values()]
    assert len(rewards) == STEPS
    assert rewards[0] < 0.2
    assert min(rewards[-4:]) > 0.9 * 1.2
