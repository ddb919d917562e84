"""One of two processes with four devices each, which lie in the mesh of the updates as on a v5e:4x2
board: publishes parameters and checks every part that it is given.

publishing.py PORT INDEX
"""

import os
import sys
from functools import partial
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
from rollout import small

from lfpc_jax.distributed import exchange
from lfpc_jax.distributed.mesh import check_rows, meshed, own_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
from lfpc_jax.model import spec

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
    print(parts, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
