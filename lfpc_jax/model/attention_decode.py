"""Attention of decode steps: a query a row, over the row's prompt and over what it has alone.

Rows are working copies, or all rows of a cache in place. In place, either XLA reads every row and
every prompt as far as the longest reaches, or a kernel reads each as far as it reaches itself.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.distributed.sharding import shards
from lfpc_jax.model import attention_reach
from lfpc_jax.model import cache as kv
from lfpc_jax.model.attention import ChosenKernel, select_decode
from lfpc_jax.model.attention_parts import (
    Members,
    Part,
    apart,
    merged,
    over,
    over_prompts,
    together,
)
from lfpc_jax.model.attention_prompts import PromptCopies, over_copies
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodeStep:
    """How the layers of a decode step write and read: `append(rows, layer, k, v)` returns rows with
    a token more; `part(queries, rows, layer)` is the part of what rows have alone, and `shared`
    that of their prompts, if they continue any."""

    append: Callable[[Any, Any, Array, Array], Any]
    part: Callable[[Array, Any, Any], Part]
    shared: Callable[[Array, Any], Part] | None

    def attend(self, q: Float[Array, "R 1 N H"], rows: Any, number: Any) -> Array:
        """Attention of every row's query in one layer."""
        R, _, N, H = q.shape
        K = jax.tree.leaves(rows.v)[0].shape[-3]
        queries = (q * jnp.asarray(H**-0.5, q.dtype)).reshape(R, K, N // K, H)
        parts = [self.part(queries, rows, number)]
        if self.shared is not None:
            parts.append(self.shared(queries, number))
        return merged(*parts).reshape(q.shape).astype(q.dtype)


def kernel(cfg: ModelConfig) -> ChosenKernel:
    last = kv.positions_last(cfg)
    return select_decode(cfg.kernel, platform=tuning().platform, positions_last=last)


def in_copies(
    working: kv.Working,
    step: Int[Array, ""],
    prompts: kv.Cache | PromptCopies | None,
    members: Members | None,
) -> DecodeStep:
    """The step of this number in a loop over working copies."""
    places = jnp.arange(kv.width(working))
    new = (places >= working.span) & (places <= working.span + step)
    visible = (places < working.length[:, None]) | new
    return DecodeStep(
        lambda rows, number, k, v: kv.append(rows, number, k, v, step),
        lambda q, rows, number: over(q, *_keys_last(rows, number), visible),
        _shared(prompts, members),
    )


def in_place(
    cache: kv.Cache,
    live: Bool[Array, "B"],
    span: int | None,
    prompts: kv.Cache | None,
    members: Members | None,
    *,
    cfg: ModelConfig,
) -> DecodeStep:
    """A step of a cache's live rows, which do not grow beyond `span`."""
    choice = kernel(cfg)
    log.info("attention of %d rows that decode: %s (%s)", len(live), choice.kernel, choice.reason)
    at = jnp.where(live, cache.length, cache.capacity)[:, None]

    def append(rows: kv.Cache, number: Any, k: Array, v: Array) -> kv.Cache:
        return kv.write(rows, number, k, v, at)

    if choice.kernel == "reach":
        visits = attention_reach.visits(jnp.where(live, cache.length + 1, 0), cache.v)
        return DecodeStep(
            append,
            lambda q, rows, number: attention_reach.reach(q, rows.k, rows.v, visits, number),
            _shared_by_reach(prompts, members, len(live)),
        )
    read = span or cache.capacity
    visible = jnp.arange(read) <= cache.length[:, None]

    def part(queries: Array, rows: kv.Cache, number: Any) -> Part:
        keys, values = _keys_last(rows, number)
        return over(queries, keys[..., :read], values[:, :, :read], visible)

    return DecodeStep(append, part, _shared(prompts, members))


def _shared(
    prompts: kv.Cache | PromptCopies | None, members: Members | None
) -> Callable[[Array, Any], Part] | None:
    if prompts is None:
        return None
    if isinstance(prompts, PromptCopies):
        return lambda queries, number: over_copies(queries, number, prompts)
    assert members is not None
    return lambda queries, number: over_prompts(
        queries, *_keys_last(prompts, number), prompts.length, members
    )


def _shared_by_reach(
    prompts: kv.Cache | None, members: Members | None, rows: int
) -> Callable[[Array, Any], Part] | None:
    if prompts is None:
        return None
    assert members is not None
    continued = (members.rows < rows // shards(rows)).any(axis=1)
    visits = attention_reach.visits(jnp.where(continued, prompts.length, 0), prompts.v)

    def part(queries: Array, number: Any) -> Part:
        queries = together(queries, members)
        found = attention_reach.reach(queries, prompts.k, prompts.v, visits, number)
        return apart(found, members)

    return part


def _keys_last(cache: kv.Cache | kv.Working, number: Any) -> tuple[Array, Array]:
    """Keys `[R, K, H, S]` and values `[R, K, S, H]` of one layer."""
    k, v = kv.layer(cache.k, number), kv.layer(cache.v, number)
    return k if cache.positions_last else k.swapaxes(-1, -2), v
