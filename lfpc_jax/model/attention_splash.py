"""Splash attention, the Pallas kernel for TPUs, under `shard_map` if a mesh is set.

Only blocks of queries and keys that may hold a visible pair are computed. Which ones these are is
found on the device from the lowest and the highest segment of each block. If segments are numbered
in the order of the row, no other block is computed.

With a `prefix` the kernel gets every key twice: first as a key of a prefix, then as a key of the
row. Neither copy of a block is computed unless it is needed. Each segment must then be one span of
the row, and a segment that is a prefix must not continue another.

Padding (segment 0) attends at least to the padding before it in its own block.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lfpc_jax.model.attention_devices import by_device

BACKWARD_BYTES = 2**29
"""The most bytes that the fused backward kernel may use beside its gradients on a device."""

LANES = 128

LONGEST = 2**15
"""The most tokens of a row with prefixes: the kernel gets two indices as one int32."""

SAVED = "attended"
"""The name of the output and the log-sum-exp for rematerialisation policies. If both are saved, the
forward kernel does not run again in the backward pass."""

_NOBODY = 2**30
_BITS = 16
_BLOCK_ROW_BYTES = 4096  # for each of the head's lanes; more does not fit into VMEM
_BLOCK_SCORES = 2**20


def splash(
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    prefix: Array | None = None,
    *,
    causal: bool,
    interpret: bool = False,
) -> Array:
    """Pads the length to whole blocks and the head to whole lanes, and runs one kernel on each
    device."""
    B, T, _, H = q.shape
    assert prefix is None or (causal and segments is not None and T <= LONGEST)
    longer, wider = _padding(T), -H % LANES
    if segments is None:
        segments = jnp.ones((B, T), jnp.int32)
    masks = tuple(x if x is None else jnp.pad(x, ((0, 0), (0, longer))) for x in (segments, prefix))
    q = q * jnp.asarray(H**-0.5, q.dtype)
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, longer), (0, 0), (0, wider))).transpose(0, 2, 1, 3)
        for x in (q, k, v)
    )
    kernel = partial(_splash_local, causal=causal, interpret=interpret)
    out = by_device(kernel, q, k, v, masks, axis=1)
    return out.transpose(0, 2, 1, 3)[:, :T, :, :H]


def keys_computed(
    segments: np.ndarray, prefix: np.ndarray | None = None, *, group: int, causal: bool = True
) -> float:
    """How many keys the kernel computes scores with for each of the queries `[B, T]`, in the mean,
    in bfloat16, if `group` query heads of a device share a key head. This counts whole blocks,
    hidden pairs included, and is the same forward and backward."""
    tokens, (_, T) = segments.size, segments.shape
    longer = ((0, 0), (0, _padding(T)))
    padded = np.pad(segments, longer)
    padded_prefix = None if prefix is None else np.pad(prefix, longer)
    _, queries, keys = block_sizes(padded.shape[1], group)
    needed = needed_blocks(padded, padded_prefix, queries, keys, causal=causal, xp=np)
    return int(needed.sum()) * queries * keys / tokens


def needed_blocks(
    segments: Any, prefix: Any, queries: int, keys: int, *, causal: bool, xp: Any = jnp
) -> Any:
    """Which blocks of `keys` keys each block of `queries` queries needs, `[..., T / queries, T /
    keys]`. With `prefix`, as many blocks come before them, for keys as those of a prefix."""
    length, real = segments.shape[-1], segments > 0
    begin, key_begin = xp.arange(0, length, queries)[:, None], xp.arange(0, length, keys)
    earlier = key_begin < begin + queries
    same = earlier & (begin < key_begin + keys)
    needed = _meet(_spans(segments, real, queries, xp), _spans(segments, real, keys, xp))
    needed = needed & (earlier if causal else True) | same
    if prefix is None:
        return needed
    continues = prefix != segments
    readers = _spans(prefix, real & continues, queries, xp)
    read = _meet(readers, _spans(segments, real & ~continues, keys, xp))
    return xp.concatenate([read, needed], axis=-1)


def _spans(ids: Any, counted: Any, block: int, xp: Any) -> tuple[Any, Any]:
    """The lowest and the highest of the ids that count in each block."""
    shape = (*ids.shape[:-1], -1, block)
    low = xp.where(counted, ids, _NOBODY).reshape(shape).min(axis=-1)
    return low, xp.where(counted, ids, -1).reshape(shape).max(axis=-1)


def _meet(queries: tuple[Any, Any], keys: tuple[Any, Any]) -> Any:
    (low, high), (key_low, key_high) = queries, keys
    return (low[..., :, None] <= key_high[..., None, :]) & (
        key_low[..., None, :] <= high[..., :, None]
    )


def block_sizes(length: int, group: int, itemsize: int = 2) -> tuple[int, int, int]:
    """How many of the `group` query heads that share a key head are rows of the same block, how
    many queries each of them has there, and how many keys a block has. Small blocks hold fewer
    hidden pairs, but every block costs the time of a step."""
    rows = _BLOCK_ROW_BYTES // itemsize
    folded = max(n for n in range(1, rows // LANES + 1) if group % n == 0)
    sizes = [size for size in (1024, 512, 256, 128) if length % size == 0]
    queries = next(size for size in sizes if folded * size <= rows)
    keys = next(size for size in sizes if folded * queries * size <= _BLOCK_SCORES)
    return folded, queries, keys


def _padding(length: int) -> int:
    # Blocks of padding are skipped, so longer padding costs less than many small blocks.
    return -length % (LANES if length <= 1024 else 4 * LANES)


def _splash_local(
    q: Array,
    k: Array,
    v: Array,
    masks: tuple[Array, Array | None],
    *,
    causal: bool,
    interpret: bool,
) -> Array:
    """The kernel for the rows and heads of a device, one row after another."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as pallas

    B, N, T, H = q.shape
    segments, prefix = masks
    folded, queries, keys = block_sizes(T, N // k.shape[1], q.dtype.itemsize)
    needed = needed_blocks(segments, prefix, queries, keys, causal=causal)
    # The fused backward kernel is faster, but stores a gradient of the queries per key block.
    fused = q.dtype.itemsize * N * T * H * needed.shape[-1] <= BACKWARD_BYTES
    settings = {
        "is_mqa": False,
        "block_sizes": _pallas_blocks(folded * queries, keys, fused=fused),
        "save_residuals": False,
        "mask_value": pallas.DEFAULT_MASK_VALUE,
        "attn_logits_soft_cap": None,
        "residual_checkpoint_name": SAVED,
        "mask_function": _mask_function(T, causal=causal, prefixed=prefix is not None),
        "interpret": interpret,
    }

    def row(q: Array, k: Array, v: Array, segments: Array, prefix: Any, needed: Array) -> Array:
        ids, key_ids = segments, segments
        sequence = jnp.arange(T, dtype=jnp.int32)
        if prefix is not None:
            k, v = (jnp.concatenate([x, x], axis=1) for x in (k, v))
            ids, key_ids = _prefix_ids(segments, prefix)
            sequence = _packed(segments)
        ids, sequence = (_repeat(x, folded, queries) for x in (ids, sequence))
        by_queries, by_keys = _schedules(needed, sequence if causal else None)
        kernel: Callable = pallas.SplashAttentionKernel(
            by_queries, None if fused else by_queries, by_keys, **settings
        )
        out = kernel(_fold(q, folded, queries), k, v, pallas.SegmentIds(ids, key_ids))
        return _unfold(out, folded, queries)

    rows = (q, k, v, segments, prefix, needed)
    if B == 1:
        return row(*jax.tree.map(lambda x: x[0], rows))[None]
    return jax.lax.map(lambda arrays: row(*arrays), rows)


def _pallas_blocks(rows: int, keys: int, *, fused: bool) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes

    return BlockSizes(
        block_q=rows,
        block_kv=keys,
        block_q_dkv=rows,
        block_kv_dkv=keys,
        block_q_dq=None if fused else rows,
        block_kv_dq=None if fused else keys,
        use_fused_bwd_kernel=fused,
    )


def _fold(x: Array, folded: int, block: int) -> Array:
    """From `[N, T, H]` to `[N / folded, folded * T, H]`: each block of queries is followed by that
    of the next head."""
    N, T, H = x.shape
    x = x.reshape(N // folded, folded, T // block, block, H)
    return x.swapaxes(1, 2).reshape(N // folded, folded * T, H)


def _unfold(x: Array, folded: int, block: int) -> Array:
    N, T, H = x.shape[0] * folded, x.shape[1] // folded, x.shape[2]
    x = x.reshape(N // folded, T // block, folded, block, H)
    return x.swapaxes(1, 2).reshape(N, T, H)


def _repeat(x: Array, folded: int, block: int) -> Array:
    """What is known of each query, `[T]`, in the order of `_fold`."""
    blocks = x.reshape(-1, 1, block)
    return jnp.broadcast_to(blocks, (blocks.shape[0], folded, block)).reshape(-1)


def _prefix_ids(segments: Array, prefix: Array) -> tuple[Array, Array]:
    """Ids of queries, and of keys as those of a prefix and as those of the row, that are equal
    where a query sees a key, and between siblings. Queries that continue nothing have an id that no
    key of a prefix has."""
    continues = prefix != segments
    ids = jnp.where(continues, prefix, ~segments)
    return ids, jnp.concatenate([jnp.where(continues, _NOBODY, segments), ids])


def _packed(segments: Array) -> Array:
    """The index of each query, and above its bits the index where its segment starts."""
    index = jnp.arange(segments.shape[0], dtype=jnp.int32)
    starts = jnp.concatenate([jnp.ones(1, bool), segments[1:] != segments[:-1]])
    return jax.lax.cummax(jnp.where(starts, index, 0)) << _BITS | index


@cache
def _mask_function(length: int, *, causal: bool, prefixed: bool) -> Callable | None:
    """Which keys a query sees by their indices, for the kernel. Made once, since it is compared by
    identity."""

    def with_prefix(query: Array, key: Array) -> Array:
        key = key - length  # negative for keys of a prefix, and large if unsigned
        started = key.astype(jnp.uint32) >= (query >> _BITS).astype(jnp.uint32)
        return started & (key <= query & (1 << _BITS) - 1)

    if prefixed:
        return with_prefix
    return (lambda query, key: key <= query) if causal else None


def _schedules(needed: Array, sequence: Any) -> tuple[Any, Any]:
    """What the kernel that goes through the keys of each block of queries computes and loads, and
    the same for the kernel that goes through the queries of each block of keys. While a block is
    skipped, the next one is loaded."""
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

    queries, keys = needed.shape
    place = jnp.arange(queries * keys, dtype=jnp.int32)
    following = jax.lax.cummin(jnp.where(needed.reshape(-1), place, place.size), reverse=True)
    following = jnp.where(following == place.size, following[0], following) % keys
    number = jnp.arange(queries, dtype=jnp.int32)[:, None]
    below = jax.lax.cummin(jnp.where(needed, number, queries), reverse=True)
    last = jnp.where(needed, number, 0).max(axis=0)
    loaded = following.reshape(needed.shape), jnp.where(below == queries, last, below)
    by_queries, by_keys = (
        MaskInfo(
            data_next=x[None],
            mask_next=None,
            block_mask=needed.astype(jnp.int32)[None],
            partial_mask_blocks=None,
            q_sequence=sequence,
        )
        for x in loaded
    )
    return by_queries, by_keys
