"""Attention of what is appended to rows of a cache: many queries a row, over the row's prompt and
over what it has alone.

Keys are read in blocks, as far as the longest of the rows reaches, and the parts of the softmax are
merged as they come. So nothing is computed for the unused rest of a cache, and at most
`SCORE_BYTES` of scores exist at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfpc_jax.model import cache as kv
from lfpc_jax.model.attention_parts import Part, merged
from lfpc_jax.model.attention_xla import SCORE_BYTES

_KEYS = 256
_HIDDEN = -1e30

Visible = Callable[[Array, Array], Array]
"""Whether queries at an index `[R, T]` see keys at places `[S]`: `[R, T, S]`."""


@dataclass(frozen=True)
class Continued:
    """The prompts that rows continue: each row's, its length, and the longest of them."""

    prompts: kv.Cache
    rows: Int[Array, "R"]
    lengths: Int[Array, "R"]
    longest: Int[Array, ""]

    @classmethod
    def by(cls, prompts: kv.Cache, rows: Int[Array, "R"]) -> "Continued":
        """To be called outside of a loop over layers, in which the devices of a mesh would ask each
        other for the longest prompt."""
        lengths = kv.length_of(prompts, rows)
        return cls(prompts, rows, lengths, lengths.max())


def observed(
    q: Float[Array, "R T N H"],
    cache: kv.Cache,
    number: Any,
    index: Int[Array, "R T"],
    reach: Int[Array, ""],
    *,
    rows: Int[Array, "R"] | None = None,
    continued: Continued | None = None,
) -> Float[Array, "R T N H"]:
    """Queries at `index` of rows of one layer attend to all keys at or before them, and to all of
    the prompts that the rows continue, if they do. Rows are numbered as in `cache.rows_of`; each
    has T queries side by side, all before `reach`."""
    R, T, N, H = q.shape
    K = jax.tree.leaves(cache.v)[0].shape[-3]
    queries = (q * jnp.asarray(H**-0.5, q.dtype)).reshape(R, T, K, N // K, H)
    block = _queries(R * N, T)

    def attend(part: tuple[Array, Array, Array]) -> Array:
        queries, index, reach = part
        folded = queries.transpose(0, 2, 1, 3, 4).reshape(R, K, -1, H)
        parts = [_over(folded, cache, number, rows, index, reach, _before)]
        if (to := continued) is not None:
            visible = partial(_within, to.lengths)
            parts.append(_over(folded, to.prompts, number, to.rows, index, to.longest, visible))
        return merged(*parts).reshape(R, K, -1, N // K, H).transpose(0, 2, 1, 3, 4)

    whole = T // block * block
    done = []
    if whole > block:
        split = jax.tree.map(
            lambda x: jnp.moveaxis(x[:, :whole].reshape(R, -1, block, *x.shape[2:]), 1, 0),
            (queries, index),
        )
        reaches = reach - T + jnp.arange(block, whole + 1, block)
        out = jnp.moveaxis(jax.lax.map(attend, (*split, reaches)), 0, 1)
        done.append(out.reshape(R, whole, *out.shape[3:]))
    elif whole:
        done.append(attend((queries[:, :whole], index[:, :whole], reach - T + whole)))
    if whole < T:
        done.append(attend((queries[:, whole:], index[:, whole:], reach)))
    return jnp.concatenate(done, axis=1).reshape(q.shape).astype(q.dtype)


def _queries(heads: int, length: int) -> int:
    """How many queries of every row are processed at once."""
    mesh = jax.sharding.get_abstract_mesh()
    fit = SCORE_BYTES * (1 if mesh.empty else mesh.size) // (4 * heads * _KEYS)
    return length if length <= fit else 2 ** int(math.log2(max(fit, 8)))


def _before(index: Array, places: Array) -> Array:
    return places <= index[..., None]


def _within(lengths: Array, index: Array, places: Array) -> Array:
    return jnp.broadcast_to(places < lengths[:, None, None], (*index.shape, len(places)))


def _over(
    q: Float[Array, "R K Q H"],
    cache: kv.Cache,
    number: Any,
    rows: Int[Array, "R"] | None,
    index: Int[Array, "R T"],
    reach: Int[Array, ""],
    visible: Visible,
) -> Part:
    """The part of the first `reach` keys of these rows."""
    k, v = kv.layer(cache.k, number), kv.layer(cache.v, number)
    size = min(_KEYS, cache.capacity)
    keys_axis = 3 if cache.positions_last else 2

    def block(x: Array, start: Array, axis: int) -> Array:
        cut = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
        return cut if rows is None else kv.rows_of(cut, rows)

    def body(step: Array, part: Part) -> Part:
        start = jnp.minimum(
            step * size, cache.capacity - size
        )  # the last may overlap the one before
        places = start + jnp.arange(size)
        seen = visible(index, places) & (places >= step * size)
        keys = block(k, start, keys_axis)
        keys = keys if cache.positions_last else keys.swapaxes(-1, -2)
        return _with(part, q, keys, block(v, start, 2), seen)

    none = Part(
        jnp.zeros(q.shape, jnp.float32),
        jnp.full((*q.shape[:3], 1), _HIDDEN, jnp.float32),
        jnp.zeros((*q.shape[:3], 1), jnp.float32),
    )
    return jax.lax.fori_loop(0, -(-jnp.minimum(reach, cache.capacity) // size), body, none)


def _with(part: Part, q: Array, k: Array, v: Array, visible: Array) -> Part:
    """A part with more keys, `[R, K, H, S]`, of which each query sees some, `[R, T, S]`."""
    R, K = q.shape[:2]
    scores = jnp.einsum("bkqh,bkhs->bkqs", q, k, preferred_element_type=jnp.float32)
    by_query = scores.reshape(R, K, visible.shape[1], -1, k.shape[-1])
    scores = jnp.where(visible[:, None, :, None], by_query, _HIDDEN).reshape(scores.shape)
    highest = jnp.maximum(part.highest, scores.max(axis=-1, keepdims=True))
    # A query that has seen no key yet gets weights of 1 here, which its first key sets to 0.
    weights = jnp.exp(scores - highest)
    kept = jnp.exp(part.highest - highest)
    values = jnp.einsum(
        "bkqs,bksh->bkqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return Part(
        kept * part.values + values,
        highest,
        kept * part.total + weights.sum(axis=-1, keepdims=True),
    )
