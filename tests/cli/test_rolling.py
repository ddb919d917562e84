"""Parameters on their way from the updates to the engine."""

from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from rollout import small

from lfpc_jax.cli.rolling import Publisher
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.grpo import trained
from lfpc_jax.model import spec


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
