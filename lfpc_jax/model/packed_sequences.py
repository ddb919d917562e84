"""Packed rows as lists of sequences, the form in which cuDNN takes them.

A sequence is a range of queries of a row and a range of keys. The own part of attention has one for
each segment. The prefix part has one for each segment that others continue: its tokens are the
keys, and all the tokens that continue it are the queries.

Rows must be in the order that packing writes (`in_order`): segments are numbered upwards along a
row, each is one range, and those that continue another one follow it directly.

In the backward pass cuDNN allocates the greatest length of a sequence for each sequence that a row
may have. So there are tiers of sequences, by a ratio r: a tier of sequences of up to L tokens has
none of L / r or fewer, except for the last one. A row of T tokens has fewer than r T / L of them,
so no tier overflows, whatever the row holds, and cuDNN allocates r T tokens for each.
"""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

_SHORT = 8
"""The greatest length of the last tier, at most, as every token may be a sequence there."""


@dataclass(frozen=True)
class Ranges:
    """The sequences of a part, told for every token of its rows: where the queries and the keys of
    the sequence whose query it is start in the row, and how many they are. A token that is no query
    has 0 `queries`. `size` is the number of both, which the sequences of a row share out, and
    `size_as_key` is that of the sequence whose key the token is, or 0."""

    query_start: Int[Array, "B T"]
    queries: Int[Array, "B T"]
    key_start: Int[Array, "B T"]
    keys: Int[Array, "B T"]
    size: Int[Array, "B T"]
    size_as_key: Int[Array, "B T"]


@dataclass(frozen=True)
class Tier:
    """The sequences of a tier in the order of the rows, then empty ones, so that there are
    `sequences` for each `longest` tokens. Starts count tokens from the start of the first row.

    `is_query` and `is_key` say which tokens belong to the tier. `number` is the sequence whose
    query a token is, and `place` its place there."""

    longest: int
    sequences: int
    query_start: Int[Array, "S"]
    queries: Int[Array, "S"]
    key_start: Int[Array, "S"]
    keys: Int[Array, "S"]
    is_query: Bool[Array, "B T"]
    is_key: Bool[Array, "B T"]
    number: Int[Array, "B T"]
    place: Int[Array, "B T"]


def own(segments: Int[Array, "B T"]) -> Ranges:
    """A sequence for each segment."""
    start, stop = _runs(segments)
    length = jnp.where(segments > 0, stop - start, 0)
    return Ranges(start, length, start, length, length, length)


def continued(segments: Int[Array, "B T"], prefix: Int[Array, "B T"]) -> Ranges:
    """A sequence for each segment that others continue."""
    segment_start, segment_stop = _runs(segments)
    continues = _continues(segments, prefix)
    start, stop = _runs(jnp.where(continues, prefix, 0))
    queries = jnp.where(continues, stop - start, 0)
    key_start = _at(segment_start, start - 1)
    keys = jnp.where(continues, start - key_start, 0)
    size = queries + keys
    # What follows a segment continues it, or the segment is nobody's prefix.
    read = (_at(jnp.where(continues, prefix, 0), segment_stop) == segments) & (segments > 0)
    return Ranges(
        start, queries, key_start, keys, size, jnp.where(read, _at(size, segment_stop), 0)
    )


def in_order(segments: Int[Array, "B T"], prefix: Int[Array, "B T"] | None) -> Bool[Array, "B"]:
    """Whether the sequences of a row are all that its tokens may see."""
    start, _ = _runs(segments)
    index = jnp.arange(segments.shape[1])
    highest = jax.lax.cummax(segments, axis=1)
    higher = (start == 0) | (segments > _at(highest, start - 1))
    wrong = (segments > 0) & (start == index) & ~higher
    if prefix is not None:
        continues = _continues(segments, prefix)
        first = _runs(jnp.where(continues, prefix, 0))[0]
        behind = (first > 0) & (_at(segments, first - 1) == prefix) & ~_at(continues, first - 1)
        wrong |= (continues & ~behind) | ((prefix == 0) & (segments > 0))
    return ~wrong.any(axis=1)


def gaps_filled(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Padding between tokens of a segment becomes a part of it. Segments must be in order."""
    none = jnp.iinfo(segments.dtype).max
    before = jax.lax.cummax(segments, axis=1)
    behind = jax.lax.cummin(jnp.where(segments > 0, segments, none), axis=1, reverse=True)
    return jnp.where(before == behind, before, 0)


def padding(length: int) -> int:
    """How many tokens to append to rows so that their length divides into those of the tiers."""
    return -length % _last(length)


def most_gathered(length: int) -> int:
    """How many tokens the sequences of the last tier of a row have room for, if each is as long as
    it may be. With a ratio of 4, no tier has room for more."""
    length += padding(length)
    return length * _last_sequences(length // _last(length))


def tiers(ranges: Ranges, ratio: int) -> list[Tier]:
    """From that of the longest sequences to that of the shortest. The greatest length of a tier is
    `ratio`, a power of two, times that of the next, or less."""
    longest = ranges.queries.shape[1]
    left = _last(longest)
    lengths = [longest]
    while left > 1:
        lengths.append(lengths[-1] // min(ratio, left))
        left //= ratio
    index = jnp.arange(longest)
    is_first = (ranges.queries > 0) & (ranges.query_start == index)
    first = jnp.stack(
        [
            is_first & (ranges.size > shorter) & (ranges.size <= longest)
            for longest, shorter in pairwise([*lengths, 0])
        ]
    )
    counted = jnp.cumsum(first.reshape(len(lengths), -1), axis=1, dtype=jnp.int32)
    return [
        _tier(ranges, longest, shorter, first[i], counted[i].reshape(is_first.shape))
        for i, (longest, shorter) in enumerate(pairwise([*lengths, 0]))
    ]


def _last(length: int) -> int:
    """How many times as long as sequences of the last tier rows are: a power of two."""
    return 2 ** max(0, (-(-length // _SHORT) - 1).bit_length())


def _last_sequences(longest: int) -> int:
    """How many sequences the last tier has for as many tokens as its longest one."""
    return max(2, longest)


def _tier(ranges: Ranges, longest: int, shorter: int, first: Array, counted: Array) -> Tier:
    """The sequences of more than `shorter` and at most `longest` tokens, given their first queries
    and how many of these there are up to each token."""
    B, T = first.shape
    sequences = longest // shorter if shorter else _last_sequences(longest)
    total = B * T // longest * sequences
    token = jnp.arange(B * T, dtype=jnp.int32)
    number = jnp.where(first, counted - 1, total).reshape(-1)
    start = jnp.full(total, B * T, jnp.int32).at[number].set(token, mode="drop")

    def of_sequences(x: Array) -> Array:
        return jnp.take(x.reshape(-1), start, mode="fill", fill_value=0)

    return Tier(
        longest,
        sequences,
        query_start=start,
        queries=of_sequences(ranges.queries),
        key_start=start - of_sequences(ranges.query_start - ranges.key_start),
        keys=of_sequences(ranges.keys),
        is_query=(ranges.queries > 0) & (ranges.size > shorter) & (ranges.size <= longest),
        is_key=(ranges.size_as_key > shorter) & (ranges.size_as_key <= longest),
        number=counted - 1,
        place=jnp.arange(T) - ranges.query_start,
    )


def _continues(segments: Array, prefix: Array) -> Array:
    return (segments > 0) & (prefix > 0) & (prefix != segments)


def _runs(ids: Array) -> tuple[Array, Array]:
    """Where the run of equal ids that a token belongs to starts and stops."""
    T = ids.shape[1]
    index = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), ids.shape)
    edge = jnp.ones_like(ids[:, :1], dtype=bool)
    change = ids[:, 1:] != ids[:, :-1]
    first = jnp.concatenate([edge, change], axis=1)
    last = jnp.concatenate([change, edge], axis=1)
    start = jax.lax.cummax(jnp.where(first, index, 0), axis=1)
    stop = jax.lax.cummin(jnp.where(last, index + 1, T), axis=1, reverse=True)
    return start, stop


def _at(x: Array, index: Array) -> Array:
    """The values of each row at an index for each token; indices outside the row are clipped."""
    return jnp.take_along_axis(x, jnp.clip(index, 0, x.shape[1] - 1), axis=1)
