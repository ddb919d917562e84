"""The two forms in which cuDNN is given the sequences of a tier. Each says how arrays of tokens,
`[B, T, ...]`, are given to it as those of queries or keys, and how its results become arrays of
tokens again, which are any where a token is no query (or no key) of the tier.

- `InPlace`: the arrays as they are, with offsets. This is cuDNN's packed layout, which GPUs have
  from Hopper on.
- `Gathered`: every sequence copied into a row of its own, padded to the longest of the tier, with
  lengths. Older GPUs have this one. In a tier of ratio r, the rows of a row of T tokens have up to
  r T places.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from lfpc_jax.model.packed_sequences import Tier


class Layout(NamedTuple):
    """Lengths of the sequences, and where they start, counted in elements from the start of the
    array. Sequences that are empty come last. Without offsets a sequence is a row."""

    query_lengths: Array  # int32 [R, M], or [S]
    key_lengths: Array
    query_offsets: Array  # int32 [R, M + 1], or [0]
    key_offsets: Array


@dataclass(frozen=True)
class InPlace:
    tier: Tier

    def queries(self, x: Array) -> Array:
        """The same array, in rows of the longest sequence of the tier."""
        return x.reshape(-1, self.tier.longest, *x.shape[2:])

    keys = queries

    def of_queries(self, new: Array, like: Array) -> Array:
        return new.reshape(like.shape)

    of_keys = of_queries

    def layout(self, q: Array, k: Array) -> Layout:
        tier, tokens = self.tier, q.shape[0] * q.shape[1]
        R, M = tokens // tier.longest, tier.sequences

        def offsets(start: Array, x: Array) -> Array:
            start = jnp.pad(start, (0, R), constant_values=tokens)
            return (start * (x.shape[2] * x.shape[3])).reshape(R, M + 1)

        return Layout(
            tier.queries.reshape(R, M),
            tier.keys.reshape(R, M),
            offsets(tier.query_start, q),
            offsets(tier.key_start, k),
        )


@dataclass(frozen=True)
class Gathered:
    tier: Tier

    def queries(self, x: Array) -> Array:
        return _taken(x, self._places(self.tier.query_start))

    def keys(self, x: Array) -> Array:
        return _taken(x, self._places(self.tier.key_start))

    def of_queries(self, new: Array, like: Array) -> Array:
        return _taken(new, self.tier.number * self.tier.longest + self.tier.place)

    def of_keys(self, new: Array, like: Array) -> Array:
        tier, (B, T) = self.tier, like.shape[:2]
        ahead = jnp.arange(tier.longest)
        token = jnp.where(ahead < tier.keys[:, None], self._places(tier.key_start), B * T)
        place = jnp.arange(token.size, dtype=jnp.int32)
        from_place = jnp.zeros(B * T, jnp.int32).at[token.reshape(-1)].set(place, mode="drop")
        return _taken(new, from_place.reshape(B, T))

    def layout(self, q: Array, k: Array) -> Layout:
        none = jnp.zeros(0, q.dtype)  # as JAX's own function passes what it does not use
        return Layout(self.tier.queries, self.tier.keys, none, none)

    def _places(self, start: Array) -> Array:
        return start[:, None] + jnp.arange(self.tier.longest)


Form = InPlace | Gathered


def _taken(x: Array, index: Array) -> Array:
    """Of the first two axes as one, what is at the index; indices outside are clipped."""
    return jnp.take(x.reshape(-1, *x.shape[2:]), index, axis=0, mode="clip")
