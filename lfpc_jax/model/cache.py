"""The key-value cache: preallocated, donated, written at each row's own offset.

Values lie `[B, K, S, H]`. So do keys on accelerators, whose compilers would copy the whole cache to
write single places into any other layout. On a CPU keys lie `[B, K, H, S]`. Layers are stacked in
one array, or one array a layer in a tuple, whichever the parameters are.
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
"""One stacked array `[L, B, ...]`, or a tuple with an array `[B, ...]` a layer."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    k: Layers
    v: Layers
    length: Any  # int32 [B]
    places_last: bool = field(metadata={"static": True})  # of the keys

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.v)[0].shape[-2]


def places_last(cfg: ModelConfig) -> bool:
    """Whether keys lie `[B, K, H, S]`: on a CPU that does not plan for another device."""
    return tuning().places_last and cfg.kernel in ("auto", "xla")


def empty(cfg: ModelConfig, rows: int, capacity: int, *, unstacked: bool = False) -> Cache:
    c = cfg.text

    def zeros(*shape: int) -> Layers:
        shape = (rows, c.kv_heads, *shape)
        if unstacked:
            return tuple(_pinned(jnp.zeros(shape, cfg.dtype)) for _ in range(c.layers))
        return _pinned(jnp.zeros((c.layers, *shape), cfg.dtype))

    last = places_last(cfg)
    return Cache(
        zeros(c.head_dim, capacity) if last else zeros(capacity, c.head_dim),
        zeros(capacity, c.head_dim),
        jnp.zeros(rows, jnp.int32),
        last,
    )


def filled(
    k: Layers, v: Layers, lengths: Int[Array, "B"], capacity: int, *, places_last: bool
) -> Cache:
    """A cache of `capacity` that begins with these keys and values, `[(L,) B, T, K, H]`."""

    def place(x: Array, last: bool) -> Array:
        lead = x.ndim - 3
        order = (1, 2, 0) if last else (1, 0, 2)
        x = x.transpose(*range(lead), *(lead + axis for axis in order))
        widths = [(0, 0)] * x.ndim
        axis = -1 if last else -2
        widths[axis] = (0, capacity - x.shape[axis])
        return _pinned(jnp.pad(x, widths))

    return Cache(
        jax.tree.map(lambda x: place(x, places_last), k),
        jax.tree.map(lambda x: place(x, False), v),
        lengths,
        places_last,
    )


def write(
    cache: Cache,
    layer: Any,
    k: Array,
    v: Array,
    places: Int[Array, "R T"],
    rows: Int[Array, "R"] | None,
) -> tuple[Cache, Array, Array]:
    """Puts `[R, T, K, H]` at `places` of one layer and of these rows (None: of all), dropping what
    lies past the last place or row. Returns those rows of that layer too, keys `[R, K, H, S]`."""
    row = jnp.arange(len(places)) if rows is None else rows
    if cache.places_last:
        of_keys: tuple[Any, ...] = (row[:, None], slice(None), slice(None), places)
        of_values: tuple[Any, ...] = (row[:, None], slice(None), places)
    else:
        # With heads among the indices a scatter moves single vectors; else TPUs want all heads of
        # a place side by side, and copy the cache to have them so.
        k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        of_keys = of_values = (row[:, None, None], jnp.arange(k.shape[1])[:, None], places[:, None])
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
    if not cache.places_last:
        ks = ks.swapaxes(-1, -2)
    return replace(cache, k=all_k, v=all_v), ks, vs


def _pinned(x: Array) -> Array:
    lead = (None,) * (x.ndim - 4)
    return constrain(x, *lead, "batch", "kv_heads", None, None)
