"""Splash attention, the Pallas kernel for TPUs, under `shard_map` if a mesh is set."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lfpc_jax.distributed.sharding import partition

BACKWARD_BYTES = 2**30
"""The most bytes that the fused backward kernel may use beside its gradients on a device."""

LANES = 128


def splash(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, interpret: bool = False
) -> Array:
    """Pads the length to whole blocks and the head to whole lanes, and runs one kernel on each
    device."""
    B, T, N, H = q.shape
    # Long rows are padded to large blocks: many small blocks would cost more than the padding.
    longer = -T % (LANES if T <= 4096 else 4 * LANES)
    wider = -H % LANES
    if segments is None:
        segments = jnp.ones((B, T), jnp.int32)
    segments = jnp.pad(segments, ((0, 0), (0, longer)))
    q = q * jnp.asarray(H**-0.5, q.dtype)
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, longer), (0, 0), (0, wider))).transpose(0, 2, 1, 3)
        for x in (q, k, v)
    )
    run: Callable = partial(_splash_local, causal=causal, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        k, v = (_share_heads(x, mesh.shape["tensor"], N) for x in (k, v))
        heads = [
            partition(("batch", axis, None, None), x.shape, mesh)
            for x, axis in ((q, "heads"), (k, "kv_heads"))
        ]
        if heads[0][1] is None:  # query heads are not split, so key heads must not be either
            heads[1] = heads[0]
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(heads[0], heads[1], heads[1], PartitionSpec(heads[0][0])),
            out_specs=heads[0],
            check_vma=False,
        )
    return run(q, k, v, segments).transpose(0, 2, 1, 3)[:, :T, :, :H]


def _share_heads(x: Array, ways: int, heads: int) -> Array:
    """Repeats key heads so that each of `ways` devices can hold those of its query heads."""
    if heads % ways or x.shape[1] % ways == 0:
        return x
    return jnp.repeat(x, math.lcm(ways, x.shape[1]) // x.shape[1], axis=1)


def _splash_local(
    q: Array, k: Array, v: Array, segments: Array, *, causal: bool, interpret: bool
) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as pallas

    B, N, T, H = q.shape
    block = next(size for size in (1024, 512, 256, 128) if T % size == 0)
    # The fused backward kernel is faster, but stores a gradient of the queries per key block.
    fused = 4 * B * N * T * H * (T // block) <= BACKWARD_BYTES
    unfused_block = None if fused else block
    mask = (pallas.CausalMask if causal else pallas.FullMask)((T, T))
    kernel = pallas.make_splash_mha(
        pallas.MultiHeadMask([mask] * N),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=pallas.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=unfused_block,
            block_kv_dq=unfused_block,
            use_fused_bwd_kernel=fused,
        ),
        interpret=interpret,
    )

    def row(q: Array, k: Array, v: Array, segments: Array) -> Array:
        return kernel(q, k, v, pallas.SegmentIds(segments, segments))

    return jax.vmap(row)(q, k, v, segments)
