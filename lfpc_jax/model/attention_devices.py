"""A kernel of self-attention on the devices of a mesh: on each for its own rows and heads."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lfpc_jax.distributed.sharding import partition


def by_device(
    kernel: Callable[[Array, Array, Array, Any], Array],
    q: Array,
    k: Array,
    v: Array,
    masks: Any,
    *,
    axis: int,
) -> Array:
    """The kernel's result, on each device if a mesh is set. Heads are at `axis`, and rows at the
    first axis, also of the masks. Key heads are repeated where each device needs the key heads of
    its query heads and they cannot be divided among the devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel(q, k, v, masks)
    ways, heads, key_heads = mesh.shape["tensor"], q.shape[axis], k.shape[axis]
    if heads % ways == 0 and key_heads % ways:
        times = math.lcm(ways, key_heads) // key_heads
        k, v = (jnp.repeat(x, times, axis=axis) for x in (k, v))
    queries, keys = (
        partition(tuple({0: "batch", axis: name}.get(i) for i in range(4)), x.shape, mesh)
        for x, name in ((q, "heads"), (k, "kv_heads"))
    )
    if queries[axis] is None:  # query heads are not split, so key heads must not be either
        keys = queries
    split = jax.shard_map(
        kernel,
        mesh=mesh,
        in_specs=(queries, keys, keys, PartitionSpec(queries[0])),
        out_specs=queries,
        check_vma=False,
    )
    return split(q, k, v, masks)
