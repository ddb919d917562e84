"""The table from logical axes to mesh axes, and everything that reads it.

Every dimension of a parameter, cache or activation has a logical name (or None). `RULES` says over
which mesh axes that name is split. A dimension whose size is not divisible stays whole, and
`kept_whole` names it. Two names of an array that claim the same mesh axis are an error.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Axes = tuple[str | None, ...]

RULES: Mapping[str, tuple[str, ...]] = {
    # parameters
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "mlp": ("tensor",),
    # activations and cache, which are not split over their width
    "batch": ("data", "fsdp"),
}


def partition(axes: Axes, shape: Sequence[int], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """How an array of these logical axes is split over `mesh`."""
    if len(axes) != len(shape):
        raise ValueError(f"{len(axes)} axes {axes} for an array of shape {tuple(shape)}")
    claimed: dict[str, str] = {}
    parts: list[tuple[str, ...] | None] = []
    for name, size in zip(axes, shape):
        rule = _rule(name)
        for mesh_axis in rule:
            if mesh_axis in claimed:
                raise ValueError(
                    f"axes {axes}: {claimed[mesh_axis]!r} and {name!r} both claim mesh axis "
                    f"{mesh_axis!r}; rename one or change RULES"
                )
            claimed[mesh_axis] = str(name)
        ways = math.prod(mesh.shape[axis] for axis in rule)
        parts.append(rule if rule and size % ways == 0 else None)
    return PartitionSpec(*parts)


def sharding(axes: Axes, shape: Sequence[int], mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, partition(axes, shape, mesh))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains an intermediate array to the table under `jax.set_mesh`; without a mesh, returns
    `x`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition(axes, x.shape, mesh))


def shards(rows: int) -> int:
    """Into how many parts the rows of a batch are split under `jax.set_mesh`."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    ways = math.prod(mesh.shape[axis] for axis in RULES["batch"])
    return ways if rows % ways == 0 else 1


def kept_whole(axes: Axes, shape: Sequence[int], mesh: Mesh) -> Iterator[str]:
    """A sentence for each dimension that a rule would split but whose size is not divisible."""
    for name, size in zip(axes, shape):
        ways = math.prod(mesh.shape[axis] for axis in _rule(name))
        if size % ways:
            yield f"{name} of {size} is not divisible by {' x '.join(_rule(name))} = {ways}"


def _rule(name: str | None) -> tuple[str, ...]:
    return RULES.get(name, ()) if name is not None else ()
