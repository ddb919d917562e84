"""Attention by cuDNN, for GPUs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def cudnn(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    lengths: Array | None,
    valid: Array | None,
    implementation: Any = "cudnn",
) -> Array:
    """Keys that are not `valid` are hidden by eight more columns of the head: the queries have a
    constant there, and those keys a large negative number. cuDNN's mask would be a `[T, T]` bias in
    memory."""
    H = q.shape[-1]
    scale = H**-0.5
    if valid is not None:
        hide = jnp.where(valid, 0.0, -1e4)[:, :, None, None].astype(k.dtype)
        q = jnp.concatenate([q, jnp.full((*q.shape[:-1], 8), 1 / scale, q.dtype)], axis=-1)
        k = jnp.concatenate([k, jnp.broadcast_to(hide, (*k.shape[:-1], 8))], axis=-1)
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, 8)))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out[..., :H]
