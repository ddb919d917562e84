"""Parameters on their way from the updates to the engine, and what a validation measures."""

from dataclasses import replace
from unittest.mock import Mock

import jax
import ml_dtypes
import numpy as np
import pytest
from evaluation import rigged
from rollout import small

from lfpc_jax.cli.progress import Steps
from lfpc_jax.cli.rolling import Publisher, Roller, numbered
from lfpc_jax.config import TrainConfig
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo import trained
from lfpc_jax.grpo.update import Learner, TrainState
from lfpc_jax.model import spec
from lfpc_jax.rollout.engine import Engine


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_every_array_is_laid_out_anew_and_is_what_it_was(tensor):
    """From 2 x 2 x 2 devices to groups of `tensor`, each of which holds all."""
    cfg = replace(small.config(), dtype="bfloat16")
    train, rollout = make_mesh(2, 2, 2), make_mesh(-1, 1, tensor)
    params = jax.device_put(small.params(), spec.shardings(cfg, train))
    found = Publisher(cfg, train, rollout)(params)
    wanted = trained.abstract(spec.spec_tree(cfg), "bfloat16", rollout)
    before, after, like = map(jax.tree.leaves, (params, found, wanted))
    assert len(before) == len(after) == len(like) > 20
    split = 0
    for old, new, want in zip(before, after, like):
        assert new.sharding == want.sharding
        expected = np.asarray(old).astype(ml_dtypes.bfloat16)
        assert np.array_equal(np.asarray(new), expected)
        for shard in new.addressable_shards:  # np.asarray reads one copy of them
            assert np.array_equal(np.asarray(shard.data), expected[shard.index])
        split += new.addressable_shards[0].data.size < new.size
    assert bool(split) == (tensor > 1)


class RiggedEngine(rigged.RiggedEngine, Engine):
    """What it says is settled, whatever is loaded."""

    def load(self, params):
        pass

    def unload(self):
        pass

    def run(self, records, *, rollouts, seed, watch=None):
        return super().run(records, rollouts=rollouts, seed=seed)


def validated(say, records):
    engine = RiggedEngine(say, small.dialogue())
    learner = Mock(spec=Learner, cfg=small.config())
    roller = Roller(TrainConfig(), engine.dialogue, engine, learner, Mock(spec=Publisher),
                    records, Steps(1))  # fmt: skip
    return roller.validate(Mock(spec=TrainState))


def test_validation_blanks_crops_and_finds_who_reads_them():
    """Without its crop the reader of crops guesses, one in four; the other never looked."""
    records = rigged.world(24)
    values, seen = validated(rigged.reads_the_crop, records)
    assert values["validation/accuracy"] == 1
    assert values["validation/blank_accuracy"] < 0.5
    assert values["validation/gap"] == 1 - values["validation/blank_accuracy"]
    for one, record in zip(seen, records, strict=True):
        [[crop]] = one.group.crops
        assert rigged.named(crop) == record.options["ABCD".index(record.answer)], "as it was"
    values, _ = validated(rigged.reads_the_whole, records)
    assert values["validation/accuracy"] == values["validation/blank_accuracy"] == 1
    assert values["validation/gap"] == 0


def test_records_that_come_twice_get_names_that_nobody_has():
    assert numbered(["a", "b", "a", "a", "b"]) == ["a", "b", "a#2", "a#3", "b#2"]
    assert numbered(["a", "a", "a#2", "a", "a#2"]) == ["a", "a#3", "a#2", "a#4", "a#2#2"]


@pytest.mark.parametrize("turn", [1, -1])
def test_validation_sets_that_share_ids_are_all_measured(turn):
    """One that is answered rightly and one that cannot be: half, in either order."""
    right = rigged.world(4)
    wrong = [replace(one, answer="BCDA"["ABCD".index(one.answer)]) for one in right]
    records = [one for part in (right, wrong)[::turn] for one in part]
    values, seen = validated(rigged.reads_the_whole, records)
    assert values["validation/accuracy"] == 0.5
    assert [one.group.record.answer for one in seen] == [one.answer for one in records]
    assert len({one.group.record.id for one in seen}) == 8
