"""Attention over the blocks that hold a visible pair, in plain XLA, for rows of tokens on CPUs.

Queries and keys are divided into blocks of `BLOCK` tokens. A pair of blocks in which no query sees
a key is never computed. Which pairs are needed follows from the segments as the program runs, so
the loop over a query block's key blocks has a dynamic length. As in FlashAttention, the softmax is
accumulated over key blocks, and the backward pass saves only the output and the logarithm of the
softmax's sum (named `SAVED`, for remat policies) and computes the weights again. The loops are
differentiated by `jax.custom_vjp`.

Three choices follow from what XLA's CPU backend is fast at (docs/log.md):
- No product has a transposed left factor. Both orientations of an operand are made beforehand.
- The softmax's sum is computed by the product with the values, which have columns of ones for it.
- The softmax's maximum is first taken elementwise over slices, then over what is left.

Letters: B rows, T tokens, n blocks of a row, K key heads, N query heads, G query heads of a key
head, R queries of a block times G, H head.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array

from lfpc_jax.distributed.sharding import partition
from lfpc_jax.model.attention_splash import SAVED

BLOCK = 128

_HIDDEN = -1e30
_LANES = 16
_ONES = 8
_NOWHERE = -1
"""The segment of the tokens that fill the last block."""


class BlockOptions(NamedTuple):
    """What is static. The precision is that of the forward pass: `jax.default_matmul_precision`
    no longer holds where the backward pass is traced."""

    causal: bool
    precision: Any


def by_blocks(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    segments: Array | None = None,
    prefix: Array | None = None,
) -> Array:
    """Queries `[B, T, N, H]` over keys and values `[B, T, K, H]`, on each device for its own rows
    and heads if a mesh is set."""
    B, T, N, H = q.shape
    if segments is None:
        segments = jnp.ones((B, T), jnp.int32)
    longer = -T % BLOCK
    ids = tuple(
        jnp.pad(x.astype(jnp.int32), ((0, 0), (0, longer)), constant_values=_NOWHERE)
        for x in (segments, prefix)
        if x is not None
    )
    q = q * jnp.asarray(H**-0.5, q.dtype)
    q, k, v = (jnp.pad(x, ((0, 0), (0, longer), (0, 0), (0, 0))) for x in (q, k, v))
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    run: Callable = partial(_attend, BlockOptions(causal, precision))
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty and mesh.size > 1:
        ways = mesh.shape["tensor"]
        heads = "heads" if N % ways == k.shape[2] % ways == 0 else None
        split = partition(("batch", None, heads, None), q.shape, mesh)
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(split, split, split, PartitionSpec(split[0])),
            out_specs=split,
            check_vma=False,
        )
    return run(q, k, v, ids)[:, :T]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options: BlockOptions, q: Array, k: Array, v: Array, ids: tuple[Array, ...]) -> Array:
    return _forward(options, q, k, v, ids)[0]


def _forward(
    options: BlockOptions, q: Array, k: Array, v: Array, ids: tuple[Array, ...]
) -> tuple[Array, Any]:
    B, T, N, H = q.shape
    K, n = k.shape[2], T // BLOCK
    order, count = _needed(ids, causal=options.causal)
    counted = jnp.concatenate([v, jnp.ones((B, T, K, _ONES), v.dtype)], axis=-1)
    queries = _by_head(q, K), _query_ids(options, ids, N // K)
    keys = _turned(_by_head(k, K)), _by_head(counted, K), _key_ids(ids)

    def query_block(number: Array, results: tuple[Array, Array]) -> tuple[Array, Array]:
        b, i = number // n, number % n
        rows, row_ids = _at(queries, b, i)

        def key_block(step: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
            k, v, key_ids = _at(keys, b, order[b, i, step])
            largest, total = sums
            scores = _hide(_product(rows, k, options), row_ids, key_ids)
            new = jnp.maximum(largest, _maximum(scores))
            weights = jnp.exp(scores - new[..., None]).astype(v.dtype)
            total = total * jnp.exp(largest - new)[..., None] + _product(weights, v, options)
            return new, total

        first = jnp.full(rows.shape[:2], -jnp.inf), jnp.zeros((*rows.shape[:2], H + _ONES))
        largest, total = jax.lax.fori_loop(0, count[b, i], key_block, first)
        out, log_sum = total[..., :H] / total[..., H:][..., :1], largest + jnp.log(total[..., H])
        return _put(results[0], out, b, i), _put(results[1], log_sum, b, i)

    empty = jnp.zeros_like(queries[0]), jnp.zeros(queries[0].shape[:-1])
    out, log_sum = jax.lax.fori_loop(0, B * n, query_block, empty)
    out, log_sum = (checkpoint_name(x, SAVED) for x in (_by_token(out, N // K), log_sum))
    return out, (q, k, v, ids, out, log_sum, order, count)


def _backward(options: BlockOptions, saved: Any, slope: Array) -> tuple[Array, Array, Array, None]:
    q, k, v, ids, out, log_sum, order, count = saved
    B, T, N, _ = q.shape
    K, n = k.shape[2], T // BLOCK
    rows, slopes = _by_head(q, K), _by_head(slope, K)
    mean = (slopes.astype(jnp.float32) * _by_head(out, K)).sum(axis=-1)
    row_ids = _query_ids(options, ids, N // K)
    queries = rows, _turned(rows), slopes, _turned(slopes), log_sum, mean, row_ids
    k, v = _by_head(k, K), _by_head(v, K)
    keys = k, _turned(k), _turned(v), _key_ids(ids)

    def query_block(number: Array, grads: tuple[Array, ...]) -> tuple[Array, ...]:
        b, i = number // n, number % n
        q, q_turned, slope, slope_turned, log_sum, mean, row_ids = _at(queries, b, i)

        def key_block(step: Array, grads: tuple[Array, ...]) -> tuple[Array, ...]:
            j = order[b, i, step]
            k, k_turned, v_turned, key_ids = _at(keys, b, j)
            dq, dk, dv = grads
            scores = _hide(_product(q, k_turned, options), row_ids, key_ids)
            weights = jnp.exp(scores - log_sum[..., None])
            to_weights = _product(slope, v_turned, options)
            to_scores = (weights * (to_weights - mean[..., None])).astype(q.dtype)
            dv_block = _product(slope_turned, weights.astype(q.dtype), options)
            dv = _put(dv, _at(dv, b, j) + dv_block, b, j)
            dk = _put(dk, _at(dk, b, j) + _product(q_turned, to_scores, options), b, j)
            return dq + _product(to_scores, k, options), dk, dv

        dq, *to_keys = grads
        first = jnp.zeros(q.shape), *to_keys
        dq_block, *to_keys = jax.lax.fori_loop(0, count[b, i], key_block, first)
        return _put(dq, dq_block, b, i), *to_keys

    zeros = jnp.zeros(keys[1].shape)  # turned, as the products give them
    dq, dk, dv = jax.lax.fori_loop(0, B * n, query_block, (jnp.zeros_like(rows), zeros, zeros))
    dk, dv = (_by_token(_turned(x), 1).astype(k.dtype) for x in (dk, dv))
    return _by_token(dq, N // K), dk, dv, None


_attend.defvjp(_forward, _backward)


# ---------------------------------------------------------------- which blocks


def _needed(ids: tuple[Array, ...], *, causal: bool) -> tuple[Array, Array]:
    """For each query block, the numbers of all key blocks, those that it needs first, and how many
    it needs: `[B, n, n]` and `[B, n]`.

    A block's segments are known by their least and greatest, so blocks of rows whose segments are
    not in order may be computed in vain. Padding counts as the last segment, not as segment 0."""
    last = jnp.iinfo(jnp.int32).max
    ordered = [jnp.where(x > 0, x, last) for x in ids]
    B, T = ordered[0].shape
    n = T // BLOCK
    keys = ordered[0].reshape(B, 1, n, BLOCK)
    least, greatest = keys.min(axis=-1), keys.max(axis=-1)
    meets = [(x[..., None] >= least) & (x[..., None] <= greatest) for x in ordered]
    needed = (meets[0] | meets[-1]).reshape(B, n, BLOCK, n).any(axis=2)
    if causal:
        needed &= jnp.tri(n, dtype=bool)
    order = jnp.argsort(~needed, axis=-1, stable=True)
    return order.astype(jnp.int32), needed.sum(axis=-1, dtype=jnp.int32)


def _query_ids(
    options: BlockOptions, ids: tuple[Array, ...], heads: int
) -> tuple[tuple, Array | None]:
    """For each row of a query block, the segments that it sees and its place if only earlier keys
    are visible."""
    B, T = ids[0].shape

    def rows(x: Array) -> Array:
        return jnp.tile(x.reshape(B, T // BLOCK, BLOCK), (1, 1, heads))

    places = rows(_places(ids)) if options.causal else None
    return tuple(map(rows, ids)), places


def _key_ids(ids: tuple[Array, ...]) -> tuple[Array, Array]:
    B, T = ids[0].shape
    segments, places = (x.reshape(B, T // BLOCK, BLOCK) for x in (ids[0], _places(ids)))
    return segments, places


def _places(ids: tuple[Array, ...]) -> Array:
    return jnp.broadcast_to(jnp.arange(ids[0].shape[1], dtype=jnp.int32), ids[0].shape)


def _hide(scores: Array, query_ids: tuple, key_ids: tuple[Array, Array]) -> Array:
    (own, *prefix), place = query_ids
    segments, places = key_ids
    visible = own[:, None] == segments
    for seen in prefix:
        visible |= seen[:, None] == segments
    if place is not None:
        visible &= place[:, None] >= places
    return jnp.where(visible, scores, _HIDDEN)


# ---------------------------------------------------------------- blocks of arrays


def _by_head(x: Array, keys: int) -> Array:
    """`[B, T, N, H]` as `[B, n, K, R, H]`. Query heads of a key head are rows of one product."""
    B, T, N, H = x.shape
    x = x.reshape(B, T // BLOCK, BLOCK, keys, N // keys, H).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(B, T // BLOCK, keys, -1, H)


def _by_token(x: Array, heads: int) -> Array:
    """The inverse of `_by_head`."""
    B, n, K, _, H = x.shape
    x = x.reshape(B, n, K, heads, BLOCK, H).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(B, n * BLOCK, K * heads, H)


def _turned(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


def _product(a: Array, b: Array, options: BlockOptions) -> Array:
    """`[K, R, S]` times `[K, S, H]`, in float32."""
    return jnp.matmul(a, b, precision=options.precision, preferred_element_type=jnp.float32)


def _maximum(scores: Array) -> Array:
    width = scores.shape[-1]
    slices = [scores[..., at : at + _LANES] for at in range(0, width, _LANES)]
    largest = slices[0]
    for part in slices[1:]:
        largest = jnp.maximum(largest, part)
    return largest.max(axis=-1)


def _at(arrays: Any, row: Array, block: Array) -> Any:
    """That block of arrays `[B, n, ...]`."""

    def cut(x: Array) -> Array:
        start = [row, block] + [0] * (x.ndim - 2)
        return jax.lax.dynamic_slice(x, start, (1, 1, *x.shape[2:]))[0, 0]

    return jax.tree.map(cut, arrays)


def _put(array: Array, block: Array, row: Array, number: Array) -> Array:
    start = [row, number] + [0] * block.ndim
    return jax.lax.dynamic_update_slice(array, block[None, None].astype(array.dtype), start)
