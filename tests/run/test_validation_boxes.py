"""What a validation measures of a crop network with a target, and without one."""

from dataclasses import replace

import pytest

from lfpc_jax.cropvlm.pair import Pair
from lfpc_jax.run.config import Rewards, TargetSettings, TrainConfig
from lfpc_jax.run.metrics import EpisodeMetrics
from lfpc_jax.run.progress import StepsDisplay
from lfpc_jax.run.validation import validate
from support import metrics_page, rigged, small
from support.rigged_target import RiggedProposer, RiggedTarget, outlines

LIKELIHOOD = Rewards(accuracy=0.0, format=0.0, tool=0.0, likelihood=1.0, valid=1.0)
BOX = replace(TrainConfig().rollout, dialogue="box", max_turns=1, convention="percent")


def validated(engine, target=None):
    config = TrainConfig(rollout=BOX, rewards=LIKELIHOOD, target=target, validation_temperature=0.0)
    measure = EpisodeMetrics(small.config().image_token)
    return validate(config, engine, rigged.world(8), None, measure, StepsDisplay(1).bar)


def test_accuracy_is_measured_though_only_likelihood_is_rewarded():
    target = RiggedTarget()
    engine = Pair(RiggedProposer(outlines), target, answers=False, likelihoods=True)
    values, groups = validated(engine, TargetSettings(path="any"))
    assert values.keys() <= metrics_page.of_runs()
    assert values["validation/accuracy"] == 1
    assert values["validation/blank_accuracy"] < 0.5
    assert values["validation/gap"] == 1 - values["validation/blank_accuracy"]
    assert values["validation/likelihood"] == -1
    assert values["validation/blank_likelihood"] == -3
    assert values["validation/overlap"] == pytest.approx(1, abs=0.02)
    assert values["validation/masked"] == values["validation/skipped"] == 0
    assert {group.trajectories[0].likelihood for group in groups} == {-1}
    assert (engine.answers, engine.likelihoods) == (False, True)
