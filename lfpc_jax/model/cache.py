"""The key-value cache: preallocated, donated, written at each row's own offset.

Keys lie `[B, K, H, S]` and values `[B, K, S, H]`, the layouts their products want. Layers are
stacked in one array, or one array a layer in a tuple, whichever the parameters are.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from lfpc_jax.distributed.sharding import constrain
from lfpc_jax.model.config import ModelConfig

Layers = Any
"""One stacked array `[L, B, ...]`, or a tuple with an array `[B, ...]` a layer."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    k: Layers
    v: Layers
    length: Any  # int32 [B]

    @property
    def capacity(self) -> int:
        return jax.tree.leaves(self.v)[0].shape[-2]


def empty(cfg: ModelConfig, rows: int, capacity: int, *, unstacked: bool = False) -> Cache:
    c = cfg.text

    def zeros(*shape: int) -> Layers:
        shape = (rows, c.kv_heads, *shape)
        if unstacked:
            return tuple(_pinned(jnp.zeros(shape, cfg.dtype)) for _ in range(c.layers))
        return _pinned(jnp.zeros((c.layers, *shape), cfg.dtype))

    return Cache(
        zeros(c.head_dim, capacity), zeros(capacity, c.head_dim), jnp.zeros(rows, jnp.int32)
    )


def filled(k: Layers, v: Layers, lengths: Int[Array, "B"], capacity: int) -> Cache:
    """A cache of `capacity` that begins with these keys and values, `[(L,) B, T, K, H]`."""

    def place(x: Array, axes: tuple[int, int, int], length_axis: int) -> Array:
        lead = x.ndim - 3
        x = x.transpose(*range(lead), *(lead + axis for axis in axes))
        widths = [(0, 0)] * x.ndim
        widths[length_axis] = (0, capacity - x.shape[length_axis])
        return _pinned(jnp.pad(x, widths))

    return Cache(
        jax.tree.map(lambda x: place(x, (1, 2, 0), -1), k),
        jax.tree.map(lambda x: place(x, (1, 0, 2), -2), v),
        lengths,
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
    lies past the last place or row, and returns those rows' keys and values of that layer too."""
    at = jnp.arange(len(places))[:, None] if rows is None else rows[:, None]
    if isinstance(cache.k, tuple):
        ks = cache.k[layer].at[at, :, :, places].set(k, mode="drop")
        vs = cache.v[layer].at[at, :, places].set(v, mode="drop")
        all_k, all_v = (
            (*x[:layer], new, *x[layer + 1 :]) for x, new in ((cache.k, ks), (cache.v, vs))
        )
        written = Cache(all_k, all_v, cache.length)
    else:
        keys = cache.k.at[layer, at, :, :, places].set(k, mode="drop")
        values = cache.v.at[layer, at, :, places].set(v, mode="drop")
        written, ks, vs = Cache(keys, values, cache.length), keys[layer], values[layer]
    if rows is None:
        return written, ks, vs
    return written, *(x.at[rows].get(mode="clip") for x in (ks, vs))


def _pinned(x: Array) -> Array:
    lead = (None,) * (x.ndim - 4)
    return constrain(x, *lead, "batch", "kv_heads", None, None)
