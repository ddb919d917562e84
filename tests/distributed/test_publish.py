"""Parameters on their way from the updates to the engine: each device holds what it should."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from lfpc_jax.distributed.mesh import make_mesh, meshed, own_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher, own_part
from lfpc_jax.model import spec
from lfpc_jax.model.config import published
from support import small, tpu_slices
from support.processes import run_both

pytestmark = pytest.mark.compiles

ORDERS = {
    "as they come": (0, 1, 2, 3, 4, 5, 6, 7),
    "0, 2, 1, 3": (0, 2, 1, 3, 4, 6, 5, 7),
    "shuffled": (3, 6, 0, 5, 1, 7, 4, 2),
}


@pytest.mark.parametrize(
    ("tensor", "order"),
    [
        (1, "as they come"),
        (2, "as they come"),
        (4, "as they come"),
        (2, "0, 2, 1, 3"),
        (4, "0, 2, 1, 3"),
        (2, "shuffled"),
    ],
)
def test_every_array_is_laid_out_anew_and_is_what_it_was(tensor, order):
    """From 2 x 2 x 2 devices in that order to groups of `tensor`, each of which holds all."""
    cfg = replace(small.config(), dtype="bfloat16")
    devices = np.array(jax.devices())[[*ORDERS[order]]]
    train, rollout = meshed(devices.reshape(2, 2, 2)), rollout_mesh(tensor)
    params = jax.device_put(small.params(), spec.shardings(cfg, train))
    found = Publisher(partial(spec.abstract, cfg, cfg.dtype), train, rollout)(params)
    wanted = spec.abstract(cfg, "bfloat16", own_mesh(rollout))
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


@pytest.mark.parametrize("size", ["3b", "7b"])
@pytest.mark.parametrize("tensor", [2, 4])
@pytest.mark.parametrize("name", tpu_slices.NAMES)
def test_on_real_slices_every_process_gets_the_parts_that_its_own_mesh_names(name, tensor, size):
    """Where libtpu puts which process: of the published parameters, every device of every process
    holds after the resharding what the engine's mesh says."""
    owned = tpu_slices.of_processes(name)
    if len(owned[0]) % tensor:
        return
    devices = tpu_slices.devices(name)
    cfg = published(size, dtype="bfloat16")
    place = partial(spec.abstract, cfg, cfg.dtype)
    rollout = rollout_mesh(tensor, devices=devices)
    publisher = Publisher(place, make_mesh(fsdp=-1, devices=devices), rollout)
    whole = jax.tree.leaves(publisher.whole)
    given = [bounds(one) for one in whole]
    halves = sum(len({*one.values()}) == tensor for one in given)
    assert halves > 10, "most are split"
    for process in owned:
        own = jax.tree.leaves(place(own_mesh(rollout, process)))
        for one, like in zip(given, own, strict=True):
            wanted = bounds(like)
            assert wanted == {device: one[device] for device in wanted}


def bounds(one):
    """Of the part that each device holds."""
    return {
        device: tuple(part.indices(size)[:2] for part, size in zip(index, one.shape))
        for device, index in one.sharding.devices_indices_map(one.shape).items()
    }


def test_a_part_that_is_not_the_own_mesh_s_is_refused_by_name():
    """As it was on real hosts: labelled in another order than laid out."""
    cfg = small.config()
    swapped = np.array(jax.devices()[:4])[[0, 2, 1, 3]]
    one, other = (meshed(np.array(d).reshape(2, 1, 2)) for d in (jax.devices()[:4], swapped))
    laid_out = jax.device_put(small.params()["unembed"], spec.shardings(cfg, one)["unembed"])
    like = spec.abstract(cfg, "float32", other)["unembed"]
    with pytest.raises(ValueError, match="scrambled weights") as raised:
        own_part("['unembed']", laid_out, like)
    said = str(raised.value)
    assert "parameter ['unembed']: cpu:2 holds [0:500, 0:256] of it" in said
    assert "need [500:1000, 0:256]" in said


@pytest.mark.long
def test_two_processes_whose_devices_lie_mixed_each_get_their_own_parts():
    for out in run_both(Path(__file__).with_name("publishing.py"), devices=4):
        [parts] = re.findall(r"(\d+) parts were right", out)
        assert int(parts) > 100, "of arrays, not whole ones"
