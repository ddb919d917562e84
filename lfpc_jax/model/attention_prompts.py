"""Attention of decode steps on a CPU to the prompts that rows share, over copies of them.

The prompts that rows continue come first. The first `usual` ones, the fewest that can serve all
rows, are always read; the others are read only while a row continues one of them. Every key head
has arrays of its own: XLA computes a batched product on one core, but several heads at the same
time.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lfpc_jax.model.attention_parts import Members, Part, apart, none_of, over, together
from lfpc_jax.model.cache import Cache


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Some:
    """Copies of P of the prompts: keys `[P, 1, H, S]` and values `[P, 1, S, H]` by layer and head,
    lengths, and the rows that continue each."""

    k: Any
    v: Any
    lengths: Any  # int32 [P]
    rows: Any  # int32 [P, M]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptCopies:
    """`usual` prompts, then `spare` ones if there are any, and whether a row continues one of
    these. `places` are those of `Members` over both."""

    usual: Some
    spare: Some | None
    continued: Any  # bool []
    places: Any  # int32 [R]


def can_copy(prompts: Cache) -> bool:
    """Whether layers and heads can be taken apart: not if layers are stacked, or on a mesh of
    several devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return (
        isinstance(prompts.k, tuple) and prompts.positions_last and (mesh.empty or mesh.size == 1)
    )


def copies(prompts: Cache, members: Members, rows: int) -> PromptCopies:
    """Copies for decode steps of so many rows."""
    P, M = members.rows.shape
    live = (members.rows < rows).any(axis=1)
    order = jnp.argsort(~live, stable=True)
    places = jnp.argsort(order)[members.places // M] * M + members.places % M
    usual = min(P, -(-rows // M))

    def some(numbers: Int[Array, "P"]) -> Some:
        def by_head(x: Array) -> tuple[Array, ...]:
            return tuple(x[numbers, head][:, None] for head in range(x.shape[1]))

        k, v = (tuple(by_head(x) for x in layers) for layers in (prompts.k, prompts.v))
        return Some(k, v, prompts.length[numbers], members.rows[numbers])

    spare = some(order[usual:]) if usual < P else None
    return PromptCopies(some(order[:usual]), spare, live.sum() > usual, places)


def over_copies(q: Float[Array, "R K G H"], number: Any, prompts: PromptCopies) -> Part:
    """The part of the prompts that rows continue."""

    def of(some: Some, q: Array) -> Part:
        queries = together(q, Members(some.rows, prompts.places))
        visible = jnp.arange(some.v[number][0].shape[2]) < some.lengths[:, None]
        heads = [
            over(queries[:, head : head + 1], k, v, visible)
            for head, (k, v) in enumerate(zip(some.k[number], some.v[number]))
        ]
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *heads)

    part, spare = of(prompts.usual, q), prompts.spare
    if spare is not None:
        (P, M), (_, K, G, H) = spare.rows.shape, q.shape
        more = jax.lax.cond(
            prompts.continued, partial(of, spare), lambda q: none_of((P, K, M * G, H)), q
        )
        part = jax.tree.map(lambda *x: jnp.concatenate(x), part, more)
    every = [some.rows for some in (prompts.usual, spare) if some is not None]
    return apart(part, Members(jnp.concatenate(every), prompts.places))
