"""Attention in plain XLA, for any device.

Blocks of queries are processed one after another and recomputed in the backward pass, so that at
most `SCORE_BYTES` of scores exist at once. Causal blocks read only the keys before them. On a CPU,
`self_attention` computes rows of `LONG` tokens or more with `attention_blocks` instead, whose many
small products would be slow on accelerators.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lfpc_jax.model.attention_blocks import by_blocks
from lfpc_jax.model.tuning import tuning

SCORE_BYTES = 64 * 2**20
"""The most bytes of float32 scores that are allocated at once on a device."""

LONG = 640
"""The fewest tokens of a row with which `attention_blocks` computes it on a CPU. A shorter row
holds one episode as a rule, and `xla` is faster for one alone; `attention_blocks` for two or
more."""

_CAUSAL_SPANS = 8
_LEAST_SPAN = 128
_SHORT = 256
_HIDDEN = -1e30


def self_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    segments: Array | None = None,
    prefix: Array | None = None,
) -> Array:
    """Queries `[B, T, N, H]` over keys and values `[B, T, K, H]` of the same tokens."""
    if tuning().platform == "cpu" and q.shape[1] >= LONG:
        return by_blocks(q, k, v, causal=causal, segments=segments, prefix=prefix)
    keys, values = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
    return xla(q, keys, values, causal=causal, segments=segments, prefix=prefix)


def xla(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    segments: Array | None = None,
    prefix: Array | None = None,
) -> Array:
    """Blocks of queries over keys `[B, K, H, S]` and values `[B, K, S, H]`."""
    B, T, N, H = q.shape
    K, S = k.shape[1], k.shape[3]
    scale = jnp.asarray(H**-0.5, q.dtype)
    # Query heads that share a key head are folded into rows: one large product, no repeated keys.
    queries = (q * scale).reshape(B, T, K, N // K, H).transpose(0, 2, 1, 3, 4)
    index = jnp.broadcast_to(jnp.arange(T), (B, T)) if causal else None
    block = _block(T, S, B * N)
    step = T
    if causal and T > _SHORT:
        unit = max(_LEAST_SPAN, min(block, T // _CAUSAL_SPANS))
        step = math.ceil(T / _CAUSAL_SPANS / unit) * unit
    spans = [(start, min(start + step, T)) for start in range(0, T, step)]
    out = []
    for start, stop in spans:
        rows = (
            queries[:, :, start:stop],
            *(None if x is None else x[:, start:stop] for x in (segments, prefix, index)),
        )
        read = stop if causal else S
        keys = (k, v, segments)
        out.append(_by_blocks(rows, keys, read, min(block, stop - start), recompute=block < T))
    joined = out[0] if len(out) == 1 else jnp.concatenate(out, axis=2)
    return joined.transpose(0, 2, 1, 3, 4).reshape(B, T, N, H)


def _block(queries: int, keys: int, heads: int) -> int:
    """How many queries are processed at once: all if their scores fit or rows are so short that the
    scores are no larger than activations, else the largest power of two whose scores fit."""
    mesh = jax.sharding.get_abstract_mesh()
    fit = SCORE_BYTES * (1 if mesh.empty else mesh.size) // (4 * heads * keys)
    if queries * keys <= _SHORT**2 or queries <= fit:
        return queries
    return 2 ** int(math.log2(fit)) if fit > 8 else min(8, queries)


def _by_blocks(rows: Any, keys: Any, read: int, block: int, *, recompute: bool) -> Array:
    """One span of queries over the first `read` keys, `block` queries at a time."""
    body: Callable = partial(_dense, read=read)
    if recompute:
        body = jax.checkpoint(body)
    length = rows[0].shape[2]
    whole = length // block * block
    done = []
    if whole > block:
        blocks = (
            _split(rows[0][:, :, :whole], 2, block),
            *(x if x is None else _split(x[:, :whole], 1, block) for x in rows[1:]),
        )
        out = jax.lax.map(lambda blk: body(blk, keys), blocks)
        done.append(jnp.moveaxis(out, 0, 2).reshape(*rows[0][:, :, :whole].shape))
    elif whole:
        done.append(body((rows[0][:, :, :whole], *_cut(rows[1:], 0, whole)), keys))
    if whole < length:
        done.append(body((rows[0][:, :, whole:], *_cut(rows[1:], whole, length)), keys))
    return done[0] if len(done) == 1 else jnp.concatenate(done, axis=2)


def _cut(arrays: Any, start: int, stop: int) -> Any:
    return tuple(x if x is None else x[:, start:stop] for x in arrays)


def _split(x: Array, axis: int, block: int) -> Array:
    shape = (*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _dense(rows: Any, keys: Any, *, read: int) -> Array:
    """Softmax attention of one block, with all of its scores in float32."""
    q, q_segments, q_prefix, q_index = rows
    k, v, k_segments = keys
    B, K, T, G, H = q.shape
    k, v = k[..., :read], v[:, :, :read]
    scores = jnp.einsum(
        "bkrh,bkhs->bkrs", q.reshape(B, K, T * G, H), k, preferred_element_type=jnp.float32
    ).reshape(B, K, T, G, read)
    visible = None
    if q_index is not None:
        visible = q_index[:, :, None] >= jnp.arange(read)
    if q_segments is not None:
        same = q_segments[:, :, None] == k_segments[:, None, :read]
        if q_prefix is not None:
            same |= q_prefix[:, :, None] == k_segments[:, None, :read]
        visible = same if visible is None else visible & same
    if visible is not None:
        scores = jnp.where(visible[:, None, :, None, :], scores, _HIDDEN)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum(
        "bkrs,bksh->bkrh",
        weights.astype(v.dtype).reshape(B, K, T * G, read),
        v,
        preferred_element_type=jnp.float32,
    )
    return (out.reshape(B, K, T, G, H) / total).astype(q.dtype)
