"""Parameters from the mesh of the updates to every process' own rollouts.

Three layouts, array by array, so that no second copy of the model is ever in the making:

    train   --> moved    the same parts, each on the device at its place in the rollout mesh
    moved   --> split    by `tensor` as the rollouts have it, and over all copies
    split   --> rollout  gathered: whole in every copy

and then each process takes its own copies. An array always says which part of it each device holds,
so nothing depends on the order in which a mesh has its devices; that the part is the one which the
process' own mesh wants there is checked, for every array, every time.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.mesh import meshed, own_mesh

Place = Callable[[Mesh], Tree]
"""What the parameters are on a mesh: a tree of `ShapeDtypeStruct` with shardings of it."""


class Publisher:
    """Narrows, too: what comes out has the dtypes that `place` says."""

    def __init__(self, place: Place, train: Mesh, rollout: Mesh) -> None:
        """`rollout` is of all processes, over the devices of `train`."""
        assert {*train.devices.flat} == {*rollout.devices.flat}
        self.moved = place(meshed(rollout.devices.reshape(train.devices.shape)))
        self.whole = place(rollout)
        copies, _, ways = rollout.devices.shape
        split = place(meshed(rollout.devices.reshape(1, copies, ways)))
        self.lay_out = jax.tree.map(_gathering, split, self.whole)
        self._own = place(own_mesh(rollout))

    def __call__(self, params: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, *leaf: self._one(jax.tree_util.keystr(path), *leaf),
            params, self.moved, self.lay_out, self._own,
        )  # fmt: skip

    @staticmethod
    def _one(
        name: str, x: jax.Array, moved: jax.ShapeDtypeStruct, lay_out: Any, own: Any
    ) -> jax.Array:
        """Waits for it: a CPU would begin the next arrays' meanwhile, and two processes that begin
        exchanges in another order wait for each other for ever."""
        placed = own_part(name, lay_out(jax.device_put(x, moved.sharding)), own)
        return jax.block_until_ready(placed)


def _gathering(split: jax.ShapeDtypeStruct, whole: jax.ShapeDtypeStruct) -> Any:
    """Split by `tensor` before it is gathered: whole on every device, it would need room there."""

    def lay_out(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x.astype(split.dtype), split.sharding)

    return jax.jit(lay_out, out_shardings=whole.sharding)


def own_part(name: str, array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """This process' shards of an array, which together are a whole copy or several, as an array of
    its own mesh. Raises where a device holds another part than `like` wants there."""
    placed = like.sharding
    assert isinstance(placed, NamedSharding)
    wanted = placed.addressable_devices_indices_map(like.shape)
    held = {shard.device: shard for shard in array.addressable_shards}
    for device in placed.mesh.devices.flat:
        index, there = wanted[device], held[device].index if device in held else None
        if there is None or index is None or _bounds(there, like) != _bounds(index, like):
            raise ValueError(
                f"parameter {name}: {device} holds {_shown(there, like)} of it, where this "
                f"process' rollouts want {_shown(index, like)}; the meshes of the updates and of "
                "the rollouts disagree, and the rollouts would sample from scrambled weights: "
                "please report this, and train with rollout.tensor 1 meanwhile"
            )
    shards = [held[device].data for device in placed.mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(like.shape, placed, shards)


def _bounds(index: tuple[slice, ...], like: jax.ShapeDtypeStruct) -> list[tuple[int, int, int]]:
    return [part.indices(size) for part, size in zip(index, like.shape, strict=True)]


def _shown(index: tuple[slice, ...] | None, like: jax.ShapeDtypeStruct) -> str:
    if index is None:
        return "no part"
    return "[" + ", ".join(f"{start}:{stop}" for start, stop, _ in _bounds(index, like)) + "]"
