"""The device mesh: always the three axes `data`, `fsdp` and `tensor`, in that order.

A process fills whole rows of a batch, and rolls out with whole copies of the model. So the devices
of a `tensor` group belong to one process wherever its number of devices is a multiple of `tensor`.

TPU slices that run together reach each other only through the data center's network, a hundredth as
fast as the network inside. So `data` goes across them: parameters are split within each slice, and
only gradients are summed between slices.
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
    slices = _by_slice(devices)
    check_slices(sides, len(slices))
    of_each = (sides[0] // len(slices), *sides[1:])
    meshes = [_within(of_each, slices[number]) for number in sorted(slices)]
    return meshed(np.concatenate(meshes))


def check_slices(sides: tuple[int, int, int], slices: int) -> None:
    """Raises ValueError unless `data` goes across all slices."""
    if sides[0] % slices:
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {sides}: {slices} slices reach each other only through "
            f"the data center's network, so data must be a multiple of {slices}; set --mesh.data "
            f"{slices} --mesh.fsdp -1"
        )


def slice_of(device: jax.Device) -> int:
    """The number of a TPU's slice. Other devices are all of one, whatever connects their hosts."""
    return getattr(device, "slice_index", None) or 0 if device.platform == "tpu" else 0


def _within(sides: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices of one slice."""
    # A side of the mesh may be a part of a physical side of the slice: 2 of 4 x 4 chips.
    placed = mesh_utils.create_device_mesh(sides, devices=devices, allow_split_physical_axes=True)
    mesh = meshed(placed)
    counts = [len(owned) for owned in _by_process(devices).values()]
    if _across(mesh) and all(count % sides[2] == 0 for count in counts):
        return rollout_mesh(sides[2], devices=devices).devices.reshape(sides)
    return placed


def rollout_mesh(tensor: int = 1, *, devices: Iterable[jax.Device] | None = None) -> Mesh:
    """A mesh of copies of a model, each on `tensor` devices of one process: the meshes of all
    processes, one after the other along `data`. It is the same in every process, which compute it
    without asking each other.

    The devices of a process are in the order of their ids, which is their order on its board. So
    the devices of all copies that hold the same part of an array form a regular grid of the slice:
    v5e and v6e can gather only over such groups.
    """
    by_process = _by_process(jax.devices() if devices is None else devices)
    if tensor < 1:
        raise ValueError(f"copies of a model on {tensor} devices each; give 1 or more")
    for process, owned in by_process.items():
        if len(owned) % tensor:
            raise ValueError(
                f"copies of a model on {tensor} devices each: process {process} has {len(owned)} "
                "devices, which is not a multiple of that; choose a divisor"
            )
    ordered = [device for owned in by_process.values() for device in owned]
    return meshed(np.array(ordered).reshape(-1, 1, tensor))


def own_mesh(rollout: Mesh, process: int | None = None) -> Mesh:
    """The part of a rollout mesh that belongs to `process` (default: this process)."""
    process = jax.process_index() if process is None else process
    copies = [copy for copy in rollout.devices if copy.flat[0].process_index == process]
    return meshed(np.array(copies))


def check_rows(mesh: Mesh) -> None:
    """Raises ValueError unless every process holds whole rows of a batch, and all equally many."""
    sides = tuple(mesh.devices.shape)
    if split := _across(mesh):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {sides}: a group of {sides[2]} devices lies across "
            f"processes {', '.join(map(str, split))}, but a process must hold whole rows of a "
            "batch; choose a mesh.tensor that divides the devices of a process"
        )
    rows = Counter(device.process_index for device in mesh.devices[..., 0].flat)
    if len({*rows.values()}) > 1:
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {sides}: processes have {dict(sorted(rows.items()))} "
            "shards of a batch, but must all have the same number; start each process with the "
            "same number of devices"
        )


def meshed(devices: np.ndarray) -> Mesh:
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def _across(mesh: Mesh) -> list[int]:
    """The processes of the first `tensor` group that lies across several; else none."""
    for group in mesh.devices.reshape(-1, mesh.devices.shape[2]):
        if len(processes := {device.process_index for device in group}) > 1:
            return sorted(processes)
    return []


def _by_process(devices: Iterable[jax.Device]) -> dict[int, list[jax.Device]]:
    owned: dict[int, list[jax.Device]] = defaultdict(list)
    for device in sorted(devices, key=lambda device: (device.process_index, device.id)):
        owned[device.process_index].append(device)
    return dict(owned)


def _by_slice(devices: Iterable[jax.Device]) -> dict[int, list[jax.Device]]:
    found: dict[int, list[jax.Device]] = defaultdict(list)
    for device in devices:
        found[slice_of(device)].append(device)
    return dict(found)


def sides_of(data: int, fsdp: int, tensor: int, devices: int) -> tuple[int, int, int]:
    """The three sides of a mesh of so many devices; raises ValueError if they do not use all."""
    sides = [data, fsdp, tensor]
    if sides.count(-1) > 1 or any(side < 1 and side != -1 for side in sides):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {tuple(sides)}: sides must be at least 1; one may be -1"
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
