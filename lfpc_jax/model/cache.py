"""The key-value cache: preallocated, donated, written at each row's offset.

Values have the layout `[B, K, S, H]`. So have keys on accelerators, whose compilers would copy the
whole cache to write single positions in any other layout. On a CPU keys have the layout
`[B, K, H, S]`. Layers are stacked in one array, or a tuple with one array for each layer, like the
parameters.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lfpc_jax.distributed.sharding import constrain
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.tuning import tuning

Layers = Any
"""One stacked array `[L, B, ...]`, or a tuple with an array `[B, ...]` for each layer."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    k: Layers
    v: Layers
    length: Any  # int32 [B]
    positions_last: bool = field(metadata={"static": True})  # keys are [B, K, H, S]

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.v)[0].shape[-2]


def positions_last(cfg: ModelConfig) -> bool:
    """Whether keys are `[B, K, H, S]`: on a CPU, unless it compiles for another device."""
    return tuning().positions_last and cfg.kernel in ("auto", "xla")


def empty(cfg: ModelConfig, rows: int, capacity: int, *, unstacked: bool = False) -> Cache:
    c = cfg.text

    def zeros(*shape: int) -> Layers:
        shape = (rows, c.kv_heads, *shape)
        if unstacked:
            return tuple(_pinned(jnp.zeros(shape, cfg.dtype)) for _ in range(c.layers))
        return _pinned(jnp.zeros((c.layers, *shape), cfg.dtype))

    last = positions_last(cfg)
    return Cache(
        zeros(c.head_dim, capacity) if last else zeros(capacity, c.head_dim),
        zeros(capacity, c.head_dim),
        jnp.zeros(rows, jnp.int32),
        last,
    )


def filled(
    k: Layers, v: Layers, lengths: Int[Array, "B"], capacity: int, *, positions_last: bool
) -> Cache:
    """A cache of `capacity` that begins with these keys and values, `[(L,) B, T, K, H]`."""

    def laid_out(x: Array, last: bool) -> Array:
        lead = x.ndim - 3
        order = (1, 2, 0) if last else (1, 0, 2)
        x = x.transpose(*range(lead), *(lead + axis for axis in order))
        widths = [(0, 0)] * x.ndim
        axis = -1 if last else -2
        widths[axis] = (0, capacity - x.shape[axis])
        return _pinned(jnp.pad(x, widths))

    return Cache(
        jax.tree.map(lambda x: laid_out(x, positions_last), k),
        jax.tree.map(lambda x: laid_out(x, False), v),
        lengths,
        positions_last,
    )


def write(
    cache: Cache,
    layer: Any,
    k: Array,
    v: Array,
    positions: Int[Array, "R T"],
    rows: Int[Array, "R"] | None,
) -> tuple[Cache, Array, Array]:
    """Writes `[R, T, K, H]` at `positions` of one layer, in these rows (None: all). What lies past
    the last position or row is dropped. Also returns those rows of the layer, keys as
    `[R, K, H, S]`."""
    row = jnp.arange(len(positions)) if rows is None else rows
    if cache.positions_last:
        of_keys: tuple[Any, ...] = (row[:, None], slice(None), slice(None), positions)
        of_values: tuple[Any, ...] = (row[:, None], slice(None), positions)
    else:
        # With heads among the indices a scatter moves single vectors. Otherwise TPUs need all heads
        # of a position side by side, and copy the cache for that.
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        head = jnp.arange(k.shape[1])[:, None]
        of_keys = of_values = (row[:, None, None], head, positions[:, None])
    if isinstance(cache.k, tuple):
        ks = cache.k[layer].at[of_keys].set(k, mode="drop")
        vs = cache.v[layer].at[of_values].set(v, mode="drop")
        all_k, all_v = (
            (*x[:layer], new, *x[layer + 1 :]) for x, new in ((cache.k, ks), (cache.v, vs))
        )
    else:
        all_k = cache.k.at[layer, *of_keys].set(k, mode="drop")
        all_v = cache.v.at[layer, *of_values].set(v, mode="drop")
        ks, vs = all_k[layer], all_v[layer]
    if rows is not None:
        ks, vs = (x.at[rows].get(mode="clip") for x in (ks, vs))
    if not cache.positions_last:
        ks = ks.swapaxes(-1, -2)
    return replace(cache, k=all_k, v=all_v), ks, vs


def _pinned(x: Array) -> Array:
    lead = (None,) * (x.ndim - 4)
    return constrain(x, *lead, "batch", "kv_heads", None, None)
