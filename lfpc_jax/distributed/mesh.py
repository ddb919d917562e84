"""The device mesh: always the three axes `data`, `fsdp` and `tensor`, in that order.

The devices of a `tensor` group lie within one process wherever its own are a multiple of them: a
process fills whole rows of a batch, and rolls out with whole copies of the model.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of exactly `devices` (default: all of them); one side may be -1 and takes the rest."""
    devices = list(jax.devices() if devices is None else devices)
    sides = sides_of(data, fsdp, tensor, len(devices))
    # A side may take a part of one of the slice's own: 2 of 4x4 chips.
    placed = mesh_utils.create_device_mesh(sides, devices=devices, allow_split_physical_axes=True)
    mesh = meshed(placed)
    if _across(mesh) and all(len(own) % sides[2] == 0 for own in _by_process(devices).values()):
        return meshed(rollout_mesh(sides[2], devices=devices).devices.reshape(sides))
    return mesh


def rollout_mesh(tensor: int = 1, *, devices: Iterable[jax.Device] | None = None) -> Mesh:
    """Copies of a model, each on `tensor` devices of one process: all processes' own meshes, one
    after the other along `data`. It is the same in every process and asks none.

    A process' devices are in the order of their ids, which is that of their places on its board. So
    the devices of all copies that hold the same part of an array are a regular grid of the slice:
    the only groups that v5e and v6e can gather over.
    """
    owned = _by_process(jax.devices() if devices is None else devices)
    if tensor < 1:
        raise ValueError(f"copies of a model on {tensor} devices each; give 1 or more")
    for process, own in owned.items():
        if len(own) % tensor:
            raise ValueError(
                f"copies of a model on {tensor} devices each: process {process} has {len(own)} "
                "devices of its own, which are no multiple of that; choose a divisor"
            )
    ordered = [device for own in owned.values() for device in own]
    return meshed(np.array(ordered).reshape(-1, 1, tensor))


def own_mesh(rollout: Mesh, process: int | None = None) -> Mesh:
    """A process' part of a rollout mesh (default: this one's)."""
    process = jax.process_index() if process is None else process
    own = [copy for copy in rollout.devices if copy.flat[0].process_index == process]
    return meshed(np.array(own))


def check_rows(mesh: Mesh) -> None:
    """Raises ValueError unless the rows of a batch that a process fills are its own and as many as
    any other's."""
    sides = tuple(mesh.devices.shape)
    if split := _across(mesh):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {sides}: a group of {sides[2]} devices lies across "
            f"processes {', '.join(map(str, split))}, each of which fills whole rows of a batch; "
            "choose a mesh.tensor that divides the devices of a process"
        )
    rows = Counter(device.process_index for device in mesh.devices[..., 0].flat)
    if len({*rows.values()}) > 1:
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {sides}: processes have {dict(sorted(rows.items()))} "
            "shards of a batch, and each fills as many; start them with as many devices each"
        )


def meshed(devices: np.ndarray) -> Mesh:
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def _across(mesh: Mesh) -> list[int]:
    """The processes of the first group of `tensor` that has several."""
    for group in mesh.devices.reshape(-1, mesh.devices.shape[2]):
        if len(found := {device.process_index for device in group}) > 1:
            return sorted(found)
    return []


def _by_process(devices: Iterable[jax.Device]) -> dict[int, list[jax.Device]]:
    owned: dict[int, list[jax.Device]] = defaultdict(list)
    for device in sorted(devices, key=lambda one: (one.process_index, one.id)):
        owned[device.process_index].append(device)
    return dict(owned)


def sides_of(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
    """The three sides for so many devices; raises ValueError for those that do not take them
    all."""
    sides = [data, fsdp, tensor]
    if sides.count(-1) > 1 or any(side < 1 and side != -1 for side in sides):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {tuple(sides)}: sides are >= 1, one may be -1"
        )
    known = math.prod(side for side in sides if side != -1)
    if -1 in sides:
        if devices % known:
            raise ValueError(
                f"mesh (data, fsdp, tensor) = {tuple(sides)}: {devices} devices are not a "
                f"multiple of {known}; change the given sides"
            )
        sides[sides.index(-1)] = devices // known
    elif known != devices:
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {tuple(sides)} needs {known} devices, there are "
            f"{devices}; set one side to -1 to take them all"
        )
    return sides[0], sides[1], sides[2]
