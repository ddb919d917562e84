"""One update towards valid boxes, of all weights and of LoRA factors: what it makes likelier."""

from dataclasses import replace

import numpy as np
import pytest

from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.rollout.replay import Replayer
from lfpc_jax.run.config import (
    LoRA,
    ModelSettings,
    Rewards,
    RolloutSettings,
    TrainConfig,
    UpdateSettings,
)
from lfpc_jax.run.session import Session
from support import small, small_boxes

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]

VALID = Rewards(accuracy=0.0, format=0.0, tool=0.0, valid=1.0)
CONFIG = TrainConfig(
    rollout=RolloutSettings(
        dialogue="box", convention="percent", max_turns=1, turn_tokens=12, prompts=3, rollouts=8,
        slots=8, chunk=4, capacity=128, image_tokens=24, crop_tokens=16, prompt_text=(64,),
        workers=1,
    ),
    rewards=VALID,
    update=UpdateSettings(mini_batch=3, rows=2),
)  # fmt: skip
TRAINED = {
    "whole": (None, OptimizerSettings(learning_rate=2e-3, warmup=0)),
    "lora": (LoRA(rank=4, alpha=8.0), OptimizerSettings(learning_rate=5e-2, warmup=0)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_boxes.hf_folder(tmp_path_factory.mktemp("boxes") / "hf")


@pytest.mark.long
@pytest.mark.parametrize("trained", ["whole", pytest.param("lora", marks=pytest.mark.slow)])
def test_an_update_makes_valid_boxes_likelier_and_others_less_likely(model, trained):
    lora, optimizer = TRAINED[trained]
    session = Session(
        replace(CONFIG, model=ModelSettings(str(model), lora=lora), optimizer=optimizer)
    )
    groups = session.roll_out([small.record(seed) for seed in range(3)], rollouts=8)
    episodes = [trajectory for group in groups for trajectory in group.trajectories]
    valid = np.array([trajectory.end == "proposed" for trajectory in episodes])
    assert 0 < valid.sum() < len(valid), [trajectory.turns for trajectory in episodes]
    if trained == "whole":
        replays_the_same(session, groups)
    rewarded = session.reward(groups)
    assert [parts["total"] for group in rewarded for parts in group.rewards] == valid.tolist()
    before = sums(session, groups)
    metrics = session.update(rewarded)
    assert metrics["refused"] == 0, "the sampler's probabilities are the trainer's"
    risen = sums(session, groups) - before
    assert risen[valid].mean() > 0.01, "nats a box"
    assert risen[~valid].mean() < -0.01


def sums(session, groups):
    """The log-likelihood of every episode's turn."""
    return np.array([tokens.sum() for group in groups for tokens in session.logprobs(group)])


def replays_the_same(session, groups):
    """Box, crop and log-probabilities come out again; the target's answer is not compared."""
    config = session.config
    shapes = config.rollout_shapes(session.cfg.vision.window)
    replayer = Replayer(session.cfg, session.dialogue, shapes, config.rules)
    for group in groups:
        answered = [
            replace(trajectory, answer="red", likelihood=-1.0) for trajectory in group.trajectories
        ]
        for replayed in replayer.replay(session.params, group.record, answered):
            assert replayed.differences == ()
            assert max(replayed.sampler.values()) < 1e-4
            assert max(replayed.policy.values()) < 1e-4
    proposed = next(t for group in groups for t in group.trajectories if t.end == "proposed")
    record = next(group.record for group in groups if group.record.id == proposed.record)
    [turn] = proposed.turns
    moved = replace(turn, crop=replace(turn.crop, box=(0.0, 0.0, 28.0, 28.0)))
    [replayed] = replayer.replay(None, record, [replace(proposed, turns=(moved,))])
    assert replayed.differences[0].startswith("turn 0 was "), "another crop is named"
