"""One of two processes with four devices each, which lie in the mesh of the updates as on a v5e:4x2
board: publishes parameters and checks every part that it is given, and its rows of a batch.

publishing.py PORT INDEX
"""

import os
import sys
from functools import partial

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax

from lfpc_jax.distributed import exchange
from lfpc_jax.distributed.mesh import check_rows, meshed, own_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.grpo.learner import Learner
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.model import spec
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.trajectory import Batch, Tokens
from support import small

PLACES = [0, 1, 4, 5, 3, 2, 7, 6]


def main(port: str, index: str) -> None:
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    own = int(index)
    assert exchange.everyones({"index": own}) == [{"index": 0}, {"index": 1}]
    assert exchange.total([own, 10]) == [1, 20]
    cfg = small.config()
    place = partial(spec.abstract, cfg, "float32")
    parts = 0
    for tensor, sides in ((2, (1, 8, 1)), (4, (2, 2, 2))):
        train = meshed(np.array(jax.devices())[PLACES].reshape(sides))
        check_rows(train)
        rollout = rollout_mesh(tensor)
        whole = jax.tree.map(np.asarray, small.params())
        params = jax.tree.map(
            lambda x, like: jax.make_array_from_callback(x.shape, like.sharding, x.__getitem__),
            whole, place(train),
        )  # fmt: skip
        found = Publisher(place, train, rollout)(params)
        mesh = own_mesh(rollout)
        assert {*mesh.devices.flat} == {*jax.local_devices()}
        for x, new, like in zip(*map(jax.tree.leaves, (whole, found, place(mesh))), strict=True):
            assert new.sharding == like.sharding
            for shard in new.addressable_shards:
                assert np.array_equal(np.asarray(shard.data), x[shard.index])
                parts += shard.data.size < x.size
        check_rows_of_a_batch(own, train)
    print(f"{parts} parts were right", flush=True)


def check_rows_of_a_batch(own: int, mesh: jax.sharding.Mesh) -> None:
    """What a process puts on the devices is what it gets back, on its own rows of them."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = shards // 2
    learner = Learner(
        small.config(), optax.sgd(1.0), objective=Objective(), trainable=Trainable(),
        allowed=np.ones(small.config().text.vocab, bool), mesh=mesh,
    )  # fmt: skip
    numbers = 100 * own + np.arange(rows * 3).reshape(rows, 3)
    ids, floats = numbers.astype(np.int32), numbers.astype(np.float32)
    positions = np.repeat(ids[None], 3, axis=0)
    batch = Batch(Tokens(ids, positions, ids, ids), ids, floats, floats, floats)
    placed = learner.place_arrays(batch)
    assert placed.weights.shape == (shards, 3)
    local = learner.local_rows(placed)
    for x, like in zip(jax.tree.leaves(local), jax.tree.leaves(batch), strict=True):
        assert np.array_equal(x, like)
    everyone = np.asarray(jax.jit(lambda x: x, out_shardings=whole_on(mesh))(placed.weights))
    assert {*everyone.flat} == {*range(3 * rows), *range(100, 100 + 3 * rows)}, "no row twice"


def whole_on(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


if __name__ == "__main__":
    main(*sys.argv[1:])
