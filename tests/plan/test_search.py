"""Settings that are proposed for a slice, and what is advised where some do not fit."""

from dataclasses import replace

import pytest

from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.plan import slices
from lfpc_jax.plan.episodes import (
    PlannedEpisode,
)
from lfpc_jax.plan.planned import advice
from lfpc_jax.plan.search import proposals
from lfpc_jax.run.config_checks import check_devices
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override

pytestmark = pytest.mark.compiles


def test_search_says_what_it_does_not_choose():
    """It found nothing with any `mesh.data` but 1, and asked for a larger slice."""
    config = load_config("stage1.py", CONFIGS)
    with pytest.raises(ValueError, match=r"mesh\.data 2: --search .* set it to 1"):
        next(proposals(replace(config, mesh=replace(config.mesh, data=2)),
                       slices.find("v5p:2x2x4"), PlannedEpisode()))  # fmt: skip


@pytest.mark.long
def test_search_proposes_what_a_slice_can_hold():
    """16 GB chips cannot hold a whole copy of the 7B beside the trainer's state; 95 GB can."""
    config, load = load_config("stage1.py", CONFIGS), PlannedEpisode()
    flags, proposed = next(proposals(config, slices.find("v5e:4x8"), load))
    assert proposed.rollout.tensor > 1
    assert proposed.update.rows < 4
    assert "--rollout.slots" in flags
    _, proposed = next(proposals(config, slices.find("v5p:2x2x4"), load))
    assert proposed.rollout.tensor == 1
    assert proposed.update.rows * proposed.update.row_tokens > 8192
    assert proposed.model.remat == "none"


@pytest.mark.long
@pytest.mark.parametrize("name", ["v5e:4x8", "v5p:2x2x2", "2xv6e:4x4"])
def test_search_proposes_nothing_that_train_would_refuse(name):
    """Groups of 8 chips were among it, where a host has 4."""
    where = slices.find(name)
    there = {"devices": len(where.devices), "local": 4, "processes": where.hosts}
    there["slices"] = where.slices
    for given in ("stage1.py", "stage1.py:3b"):
        few = ("--rollout.rollouts", "4", "--mesh.data", str(where.slices))  # are sooner laid out
        config = override(load_config(given, CONFIGS), few)
        found = list(proposals(config, where, PlannedEpisode()))
        assert found
        for _, proposed in found:
            check_devices(proposed, **there)


def test_what_to_change_is_nothing_that_train_would_refuse():
    """A host of v5e:4x4 has 4 chips: groups of 4 are the largest."""
    where, config = slices.find("v5e:4x4"), load_config("stage1.py", CONFIGS)
    assert "raise rollout.tensor (at most 4, the chips of a host)" in advice(
        "rollout", where, config
    )
    assert "raise mesh.tensor (at most 4, the chips of a host)" in advice("update", where, config)
    rollout, mesh = replace(config.rollout, tensor=4), replace(config.mesh, tensor=4)
    most = replace(config, rollout=rollout, mesh=mesh)
    for phase in ("rollout", "reshard", "score", "update"):
        assert ".tensor" not in advice(phase, where, most)
    assert "raise --tensor" in advice("model", where, None)
    held = advice("rollout", where, config, holds_too_much=True)
    assert "raise rollout.tensor" in held
    assert held.endswith("use model.lora, or take a larger slice")
    assert "slots" not in held
    assert ".tensor" not in advice("update", where, most, holds_too_much=True)
