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

from lfpc_jax.distributed.sharding import Axes, constrain, partition, shards
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
    """Whether keys are `[B, K, H, S]`: on a CPU, with the kernel that reads them."""
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


def layer(x: Layers, number: Any) -> Array:
    """One layer's keys or values, whether layers are stacked or not."""
    return x[number]


def rows_of(x: Array, rows: Int[Array, "R"]) -> Array:
    """Copies of rows of one layer; on a mesh by their numbers within each shard, in order of the
    shards. Rows past the last are any. A vector is whole on every device, and so are copies of its
    rows."""
    parts = shards(len(x))
    if parts == 1:
        return x.at[rows].get(mode="clip")
    split = x.reshape(parts, -1, *x.shape[1:])
    taken = jax.vmap(lambda x, rows: x.at[rows].get(mode="clip"))(split, rows.reshape(parts, -1))
    taken = taken.reshape(-1, *x.shape[1:])
    return constrain(taken, None) if x.ndim == 1 else taken


def some_rows(cache: Cache, rows: Int[Array, "R"]) -> Cache:
    """A cache of copies of these rows; see `rows_of`."""

    def copied(x: Array) -> Array:
        return rows_of(x, rows) if x.ndim == 4 else jax.vmap(lambda x: rows_of(x, rows))(x)

    k, v = jax.tree.map(copied, (cache.k, cache.v))
    return replace(cache, k=k, v=v, length=rows_of(cache.length, rows))


def put_rows(cache: Cache, new: Cache, rows: Int[Array, "R"]) -> Cache:
    """The cache with the beginnings of some rows replaced by whole rows of another, which has no
    more capacity. Rows are numbered within each shard, in order of the shards; those past the last
    are dropped."""
    parts = shards(cache.length.shape[0])

    def of_layers(x: Array, y: Array) -> Array:
        axis = x.ndim - 4

        def of_shard(x: Array, y: Array, rows: Array) -> Array:
            def put(number: Any, x: Array) -> Array:
                start: list[Any] = [0] * x.ndim
                start[axis] = jnp.minimum(rows[number], x.shape[axis] - 1)
                new = jax.lax.dynamic_slice_in_dim(y, number, 1, axis)
                old = jax.lax.dynamic_slice(x, start, new.shape)
                new = jnp.where(rows[number] < x.shape[axis], new.astype(x.dtype), old)
                return jax.lax.dynamic_update_slice(x, new, start)

            return jax.lax.fori_loop(0, len(rows), put, x)

        if parts == 1:
            return of_shard(x, y, rows)
        mesh = jax.sharding.get_abstract_mesh()
        whole, some = (partition(_axes(x), x.shape, mesh) for x in (x, y))
        of_rows = partition(("batch",), rows.shape, mesh)
        # Under `vmap` the updates would be a scatter, which XLA for GPUs does not compile.
        specs: dict[str, Any] = {"in_specs": (whole, some, of_rows), "out_specs": whole}
        return jax.shard_map(of_shard, mesh=mesh, check_vma=False, **specs)(x, y, rows)

    k, v = jax.tree.map(of_layers, (cache.k, cache.v), (new.k, new.v))
    into = everywhere(rows, len(cache.length))
    length = cache.length.at[into].set(constrain(new.length, None), mode="drop")
    return replace(cache, k=k, v=v, length=constrain(length, None))


def write(
    cache: Cache,
    number: Any,
    k: Array,
    v: Array,
    positions: Int[Array, "R T"],
    rows: Int[Array, "R"] | None = None,
) -> Cache:
    """Writes `[R, T, K, H]` at `positions` of one layer, in these rows (None: all), which on a mesh
    are numbered within each shard. What lies past the last position or row is dropped."""
    of_k, of_v = cache.k, cache.v
    all_k: Layers
    all_v: Layers
    if isinstance(of_k, tuple):
        new = _written(
            (of_k[number], of_v[number]), (), k, v, positions, rows, cache.positions_last
        )
        all_k, all_v = ((*x[:number], y, *x[number + 1 :]) for x, y in zip((of_k, of_v), new))
    else:
        last = cache.positions_last
        all_k, all_v = _written((of_k, of_v), (number,), k, v, positions, rows, last)
    return replace(cache, k=all_k, v=all_v)


def _written(
    both: tuple[Array, Array],
    lead: tuple[Any, ...],
    k: Array,
    v: Array,
    positions: Array,
    rows: Array | None,
    positions_last: bool,
) -> tuple[Array, Array]:
    """Keys and values, `[(L,) B, ...]`, with what is new at `lead` and these rows and positions."""
    axis = len(lead)
    parts = shards(both[0].shape[axis])

    def of_shard(keys: Array, values: Array, k: Array, v: Array, at: Array, row: Array) -> Any:
        if positions_last:
            of_keys: tuple[Any, ...] = (row[:, None], slice(None), slice(None), at)
            of_values: tuple[Any, ...] = (row[:, None], slice(None), at)
        else:
            # With heads among the indices a scatter moves single vectors. Otherwise TPUs need all
            # heads of a position side by side, and copy the cache for that.
            k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
            head = jnp.arange(k.shape[1])[:, None]
            of_keys = of_values = (row[:, None, None], head, at[:, None])
        return (
            keys.at[*lead, *of_keys].set(k.astype(keys.dtype), mode="drop"),
            values.at[*lead, *of_values].set(v.astype(values.dtype), mode="drop"),
        )

    if rows is None:
        rows = jnp.tile(jnp.arange(len(positions) // parts), parts)
    if parts == 1:
        return of_shard(*both, k, v, positions, rows)

    def split(x: Array, axis: int) -> Array:
        return x.reshape(*x.shape[:axis], parts, -1, *x.shape[axis + 1 :])

    each = jax.vmap(of_shard, in_axes=(axis, axis, 0, 0, 0, 0), out_axes=axis)
    new = each(*(split(x, axis) for x in both), *(split(x, 0) for x in (k, v, positions, rows)))
    keys, values = (x.reshape(old.shape) for x, old in zip(new, both))
    return _pinned(keys), _pinned(values)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Working:
    """Copies of R rows of a cache for a loop of decode steps, with room for a token a step. What a
    row has lies at the beginning, and new tokens of all rows lie behind, from `span` on."""

    k: Layers
    v: Layers
    length: Array  # int32 [R], of what rows had
    span: int = field(metadata={"static": True})
    positions_last: bool = field(metadata={"static": True})


def working(cache: Cache, rows: Int[Array, "R"], span: int, steps: int) -> Working:
    """Rows of which none is longer than `span`."""

    def copied(x: Array, last: bool) -> Array:
        def of_layer(x: Array) -> Array:
            reach = x[..., :span] if last else x[:, :, :span]
            widths = (
                [(0, 0), (0, 0), (0, 0), (0, steps)]
                if last
                else [(0, 0)] * 2 + [(0, steps), (0, 0)]
            )
            return _pinned(jnp.pad(rows_of(reach, rows), widths))

        return of_layer(x) if x.ndim == 4 else jax.vmap(of_layer)(x)

    last = cache.positions_last
    return Working(
        jax.tree.map(lambda x: copied(x, last), cache.k),
        jax.tree.map(lambda x: copied(x, False), cache.v),
        length_of(cache, rows),
        span,
        last,
    )


def width(working: Working) -> int:
    """The places of a row, those for new tokens included."""
    return jax.tree.leaves(working.v)[0].shape[-2]


def length_of(cache: Cache, rows: Int[Array, "R"]) -> Int[Array, "R"]:
    return rows_of(cache.length, rows)


def append(working: Working, number: Any, k: Array, v: Array, step: Any) -> Working:
    """Writes every row's token of this step, `[R, 1, K, H]`, to one layer."""
    column = working.span + step
    k = k.transpose(0, 2, 3, 1) if working.positions_last else k.swapaxes(1, 2)
    v = v.swapaxes(1, 2)
    axis = 3 if working.positions_last else 2

    def put(x: Layers, new: Array, axis: int) -> Layers:
        if isinstance(x, tuple):
            now = jax.lax.dynamic_update_slice_in_dim(x[number], new, column, axis)
            return (*x[:number], now, *x[number + 1 :])
        start = [number, 0, 0, 0, 0]
        start[1 + axis] = column
        return jax.lax.dynamic_update_slice(x, new[None], start)

    return replace(working, k=put(working.k, k, axis), v=put(working.v, v, 2))


def written_back(
    cache: Cache, working: Working, rows: Int[Array, "R"], numbers: Int[Array, "R"]
) -> Cache:
    """The cache with the first `numbers` new tokens of each row."""
    steps = width(working) - working.span
    ahead = jnp.arange(steps)
    at = jnp.where(ahead < numbers[:, None], working.length[:, None] + ahead, cache.capacity)

    def body(number: Any, cache: Cache) -> Cache:
        k, v = layer(working.k, number), layer(working.v, number)
        v = v[:, :, working.span :].swapaxes(1, 2)
        if working.positions_last:
            k = k[..., working.span :].transpose(0, 3, 1, 2)
        else:
            k = k[:, :, working.span :].swapaxes(1, 2)
        return write(cache, number, k, v, at, rows)

    if isinstance(cache.k, tuple):
        for number in range(len(cache.k)):
            cache = body(number, cache)
    else:
        cache = jax.lax.fori_loop(0, len(cache.k), body, cache)
    return replace(cache, length=added(cache.length, rows, numbers))


def added(length: Int[Array, "B"], rows: Int[Array, "R"] | None, more: Int[Array, "R"]) -> Array:
    """Lengths, with those of some rows increased."""
    if rows is None:
        return length + more
    new = length.at[everywhere(rows, len(length))].add(constrain(more, None), mode="drop")
    return constrain(new, None)


def everywhere(rows: Int[Array, "R"], count: int) -> Int[Array, "R"]:
    """Rows numbered within each shard as they are numbered among all `count`; past the last row of
    their shard they become `count`."""
    parts = shards(count)
    own = count // parts
    first = jnp.repeat(jnp.arange(parts) * own, len(rows) // parts)
    return jnp.where(rows < own, first + rows, count)


def _pinned(x: Array) -> Array:
    return constrain(x, *_axes(x))


def _axes(x: Array) -> Axes:
    return (*(None,) * (x.ndim - 4), "batch", "kv_heads", None, None)
