"""Attention of decode steps on TPUs: a Pallas kernel that reads each row of a cache as far as it
reaches, in place.

Keys are visited in blocks, row after row, and a row's last block ends its visits. How many there
are is known on the device only, so the grid has as many steps as there are visits. The cache may be
a stack of layers, from which the kernel reads one; nothing is copied out of it. Queries of a row
are those of the heads that share a key head, or for a prompt those of all rows that continue it.

Under a mesh the kernel runs on each device, for its rows and key heads.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from lfpc_jax.distributed.sharding import RULES, partition, shards
from lfpc_jax.model.attention_parts import Part
from lfpc_jax.model.cache import Layers

LANES, SUBLANES = 128, 8
BLOCK_BYTES = 2**18
"""About how much of the keys, and of the values, is read at once: less costs more in steps than in
bytes, and more reads further beyond the end of a row."""

_HIDDEN = -1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Visits:
    """Which blocks of keys are visited for N sets of queries, each of which reads a row, device by
    device. Set `number[d, i]` meets block `block[d, i]` in visit i of device d, of which the first
    `count[d]` take place."""

    lengths: Any  # int32 [N], how many keys each set reads
    count: Any  # int32 [D]
    number: Any  # int32 [D, V]
    block: Any  # int32 [D, V]
    size: int = field(metadata={"static": True})  # keys of a block


def visits(lengths: Int[Array, "N"], values: Layers) -> Visits:
    """The visits in which row i is read up to `lengths[i]`. They are the same for every layer."""
    *_, B, K, S, H = jax.tree.leaves(values)[0].shape
    itemsize = jax.tree.leaves(values)[0].dtype.itemsize
    parts = shards(B)
    mesh = jax.sharding.get_abstract_mesh()
    heads = K if mesh.empty or K % mesh.shape["tensor"] else K // mesh.shape["tensor"]
    size = block_size(heads, S, H, itemsize)
    N, blocks = B // parts, -(-S // size)
    lengths = jnp.minimum(lengths, S)

    def of_shard(lengths: Array) -> tuple[Array, Array, Array]:
        needed = -(-lengths // size)
        ends = jnp.cumsum(needed)
        visit = jnp.arange(N * blocks)
        number = jnp.minimum((ends <= visit[:, None]).sum(axis=1), N - 1)
        block = visit - (ends - needed)[number]
        # A grid without a step is avoided; the only step then computes what is not read.
        return jnp.maximum(ends[-1], 1), number, jnp.clip(block, 0, blocks - 1)

    found = jax.vmap(of_shard)(lengths.reshape(parts, -1))
    count, number, block = (x.astype(jnp.int32) for x in found)
    return Visits(lengths, count, number, block, size)


def block_size(heads: int, length: int, width: int, itemsize: int) -> int:
    """How many places of a row a block has. It holds the keys of all key heads of a device."""
    fit = BLOCK_BYTES // (heads * width * itemsize) // LANES * LANES
    return min(max(LANES, min(fit, 1024)), length)


def reach(
    q: Float[Array, "N K R H"],
    k: Layers,
    v: Layers,
    visits: Visits,
    layer: Any,
    *,
    interpret: bool = False,
) -> Part:
    """The part of the keys `[N, K, S, H]` that are visited, of one of the layers. Queries are
    scaled. Sets without keys have no share."""
    if isinstance(k, tuple):
        k, v, layer = k[layer][None], v[layer][None], 0
    layer = jnp.asarray(layer, jnp.int32).reshape(1)
    R = q.shape[2]
    q = jnp.pad(q, ((0, 0), (0, 0), (0, -R % SUBLANES), (0, 0)))
    run: Callable = partial(_local, size=visits.size, interpret=interpret)
    where = (visits.lengths, visits.count, visits.number, visits.block)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        split = PartitionSpec(RULES["batch"] if shards(k.shape[1]) > 1 else None)
        cached = partition((None, "batch", "kv_heads", None, None), k.shape, mesh)
        queries = PartitionSpec(*split, cached[2], None, None)
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(queries, cached, cached, (split,) * len(where), PartitionSpec()),
            out_specs=(queries, queries),
            check_vma=False,
        )
    out, total = run(q, k, v, where, layer)
    some = (visits.lengths > 0)[:, None, None, None]
    out = jnp.where(some, out[:, :, :R], 0)
    total = jnp.where(some, total[:, :, :R], _HIDDEN)
    return Part(out, total, jnp.ones_like(total))


def _local(
    q: Array,
    k: Array,
    v: Array,
    where: tuple[Array, Array, Array, Array],
    layer: Array,
    *,
    size: int,
    interpret: bool,
) -> tuple[Array, Array]:
    """The kernel for the rows and heads of a device: the attention of every set that is visited,
    and the logarithm of the sum of its weights. That of others is not written."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    lengths, count, number, block = where
    N, K, R, H = q.shape

    def of_set(step: Any, layer: Any, number: Any, *_: Any) -> tuple[Any, ...]:
        return number[step], 0, 0, 0

    def of_keys(step: Any, layer: Any, number: Any, block: Any, _: Any) -> tuple[Any, ...]:
        return layer[0], number[step], 0, block[step], 0

    keys = pl.BlockSpec((None, None, K, size, H), of_keys)
    grid = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=4,
        grid=(count[0],),
        in_specs=[pl.BlockSpec((None, K, R, H), of_set), keys, keys],
        out_specs=[pl.BlockSpec((None, K, R, width), of_set) for width in (H, 1)],
        scratch_shapes=[pltpu.VMEM((K, R, width), jnp.float32) for width in (H, LANES, LANES)],
    )
    shapes = [jax.ShapeDtypeStruct((N, K, R, width), jnp.float32) for width in (H, 1)]
    call = pl.pallas_call(
        partial(_kernel, size=size),
        grid_spec=grid,
        out_shape=shapes,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
        interpret=interpret,
        name="attention_reach",
    )
    out, total = call(layer, number[0], block[0], lengths, q, k, v)
    return out, total


def _kernel(
    layer: Any,
    numbers: Any,
    blocks: Any,
    lengths: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    total_out: Any,
    values: Any,
    highest: Any,
    total: Any,
    *,
    size: int,
) -> None:
    from jax.experimental import pallas as pl

    step = pl.program_id(0)
    block, length = blocks[step], lengths[numbers[step]]

    @pl.when(block == 0)
    def _() -> None:
        values[...] = jnp.zeros_like(values)
        highest[...] = jnp.full_like(highest, _HIDDEN)
        total[...] = jnp.zeros_like(total)

    left = length - block * size
    precision = "highest" if q.dtype == jnp.float32 else None
    product = partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    for head in range(q.shape[0]):
        scores = product(q[head], k[head], (((1,), (1,)), ((), ())))
        seen = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1) < left
        scores = jnp.where(seen, scores, _HIDDEN)
        before = highest[head][:, :1]
        now = jnp.maximum(before, scores.max(axis=1, keepdims=True))
        kept = jnp.exp(before - now)
        weights = jnp.exp(scores - now)
        # What is beyond the end of the cache may be anything, infinite too.
        there = jax.lax.broadcasted_iota(jnp.int32, v.shape[1:], 0) < left
        mine = jnp.where(there, v[head], jnp.zeros((), v.dtype))
        more = product(weights.astype(v.dtype), mine, (((1,), (0,)), ((), ())))
        values[head] = kept * values[head] + more
        added = kept * total[head][:, :1] + weights.sum(axis=1, keepdims=True)
        total[head] = jnp.broadcast_to(added, total.shape[1:])
        highest[head] = jnp.broadcast_to(now, highest.shape[1:])

    @pl.when(left <= size)
    def _() -> None:
        sums = total[...][:, :, :1]
        out[...] = values[...] / sums
        total_out[...] = highest[...][:, :, :1] + jnp.log(sums)
