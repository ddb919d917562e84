"""Attention of decode steps in parts: to the prompts that rows share, and to what rows have alone.

A part is a softmax over some of the keys that is not divided yet, so parts merge exactly. All rows
that continue a prompt meet its keys in one product.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.model.cache import rows_of

_HIDDEN = -1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Part:
    """The weighted sum of values, the highest score and the total of the weights, of every query:
    `[*n, H]`, and twice `[*n, 1]`, float32."""

    values: Array
    highest: Array
    total: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Members:
    """Which of R rows continue each of P prompts, and where each row is among them. On a mesh rows
    and prompts are numbered within their shard; numbers past the last row are padding."""

    rows: Any  # int32 [P, M]
    places: Any  # int32 [R]


def none_of(shape: tuple[int, ...]) -> Part:
    """The part of no keys at all, with values of this shape. It has no share in what it is merged
    with."""
    each = (*shape[:-1], 1)
    return Part(jnp.zeros(shape), jnp.full(each, _HIDDEN), jnp.zeros(each))


def merged(*parts: Part) -> Float[Array, "*n H"]:
    highest = jnp.stack([part.highest for part in parts]).max(axis=0)
    shares = [jnp.exp(part.highest - highest) for part in parts]
    total = jnp.zeros_like(highest)
    values = jnp.zeros_like(parts[0].values)
    for share, part in zip(shares, parts):
        total, values = total + share * part.total, values + share * part.values
    return values / total


def over(
    q: Float[Array, "B K R H"],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
    visible: Bool[Array, "B S"],
) -> Part:
    """The part of keys and values that are visible to all of a row's queries. Where there are none,
    the part has no share if it is merged with one that has some."""
    scores = jnp.einsum("bkrh,bkhs->bkrs", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(visible[:, None, None], scores, _HIDDEN)
    highest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - highest)  # 0 for hidden scores, unless there are no others
    values = jnp.einsum(
        "bkrs,bksh->bkrh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return Part(values, highest, weights.sum(axis=-1, keepdims=True))


def over_prompts(
    q: Float[Array, "R K G H"],
    k: Float[Array, "P K H S"],
    v: Float[Array, "P K S H"],
    lengths: Int[Array, "P"],
    members: Members,
) -> Part:
    """The part of the prompts that rows continue."""
    visible = jnp.arange(k.shape[-1]) < lengths[:, None]
    return apart(over(together(q, members), k, v, visible), members)


def together(q: Float[Array, "R K G H"], members: Members) -> Float[Array, "P K Q H"]:
    """The queries of all rows that continue a prompt, side by side."""
    P, M = members.rows.shape
    _, K, G, H = q.shape
    queries = rows_of(q, members.rows.reshape(-1))
    return queries.reshape(P, M, K, G, H).swapaxes(1, 2).reshape(P, K, M * G, H)


def apart(part: Part, members: Members) -> Part:
    """The part of each row, `[R, K, G, ...]`, of what `together` put side by side."""
    P, M = members.rows.shape

    def of_rows(x: Array) -> Array:
        K = x.shape[1]
        x = x.reshape(P, K, M, -1, x.shape[-1]).swapaxes(1, 2)
        return rows_of(x.reshape(P * M, *x.shape[2:]), members.places)

    return jax.tree.map(of_rows, part)
