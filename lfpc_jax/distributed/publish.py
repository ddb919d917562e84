"""Moves parameters from the mesh of the updates to the mesh on which each process rolls out.

Each array passes through three layouts before the next begins, so that no second copy of the model
takes memory on the way:

    train   --> moved    the same parts, each on the device with the same index in the rollout mesh
    moved   --> split    split by `tensor` as the rollouts need it, and also over all copies
    split   --> rollout  gathered: each copy is complete

Then each process takes its copies. An array that lies on the train mesh as the rollouts need it, as
all do on a single chip, is not moved: both hold the same memory. An array always knows which part
of it each device holds, so the order of a mesh's devices does not matter. For every array, each
time, `own_part` checks that each device holds the part that the mesh of the process demands.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.mesh import meshed, own_mesh

Place = Callable[[Mesh], Tree]
"""Gives the parameters' layout on a mesh: a tree of `ShapeDtypeStruct` with shardings."""


class Publisher:
    """Moves parameters and casts them to the dtypes that `place` gives."""

    def __init__(self, place: Place, train: Mesh, rollout: Mesh) -> None:
        """`rollout` is the mesh of all processes, over the same devices as `train`."""
        assert {*train.devices.flat} == {*rollout.devices.flat}
        self.moved = place(meshed(rollout.devices.reshape(train.devices.shape)))
        self.whole = place(rollout)
        copies, _, ways = rollout.devices.shape
        split = place(meshed(rollout.devices.reshape(1, copies, ways)))
        self.lay_out = jax.tree.map(_gathering, split, self.whole)
        self._local = place(own_mesh(rollout))

    def __call__(self, params: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(
            lambda path, *leaf: self._publish(jax.tree_util.keystr(path), *leaf),
            params, self.whole, self.moved, self.lay_out, self._local,
        )  # fmt: skip

    @staticmethod
    def _publish(
        name: str,
        x: jax.Array,
        whole: jax.ShapeDtypeStruct,
        moved: jax.ShapeDtypeStruct,
        lay_out: Any,
        local: jax.ShapeDtypeStruct,
    ) -> jax.Array:
        """Moves one array and waits for it. Without the wait a CPU would begin other arrays, and
        two processes that begin exchanges in different orders would wait for each other for ever.
        """
        if x.dtype == whole.dtype and lies_so(x, whole):
            return own_part(name, x, local)
        placed = own_part(name, lay_out(jax.device_put(x, moved.sharding)), local)
        return jax.block_until_ready(placed)


def lies_so(x: jax.Array | jax.ShapeDtypeStruct, wanted: jax.ShapeDtypeStruct) -> bool:
    """Whether an array lies on its devices as `wanted` does."""
    assert x.sharding is not None
    assert wanted.sharding is not None
    return x.sharding.is_equivalent_to(wanted.sharding, len(wanted.shape))


def _gathering(split: jax.ShapeDtypeStruct, whole: jax.ShapeDtypeStruct) -> Any:
    """A program that splits an array by `tensor` before it gathers it, since no device may have
    room for a whole array."""

    def lay_out(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x.astype(split.dtype), split.sharding)

    return jax.jit(lay_out, out_shardings=whole.sharding)


def own_part(name: str, array: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """The shards that this process holds, which form one or several copies, as an array on its
    rollout mesh. Raises ValueError if a device holds another part than `like` demands."""
    placed = like.sharding
    assert isinstance(placed, NamedSharding)
    wanted = placed.addressable_devices_indices_map(like.shape)
    held = {shard.device: shard for shard in array.addressable_shards}
    for device in placed.mesh.devices.flat:
        index, present = wanted[device], held[device].index if device in held else None
        if present is None or index is None or _bounds(present, like) != _bounds(index, like):
            raise ValueError(
                f"parameter {name}: {device} holds {_words(present, like)} of it, but the "
                f"rollouts of this process need {_words(index, like)}; the meshes of the updates "
                "and of the rollouts disagree, and rollouts would sample from scrambled weights: "
                "please report this, and train with rollout.tensor 1 until it is fixed"
            )
    shards = [held[device].data for device in placed.mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(like.shape, placed, shards)


def _bounds(index: tuple[slice, ...], like: jax.ShapeDtypeStruct) -> list[tuple[int, int, int]]:
    return [part.indices(size) for part, size in zip(index, like.shape, strict=True)]


def _words(index: tuple[slice, ...] | None, like: jax.ShapeDtypeStruct) -> str:
    if index is None:
        return "no part"
    return "[" + ", ".join(f"{start}:{stop}" for start, stop, _ in _bounds(index, like)) + "]"
