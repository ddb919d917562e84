"""The device mesh: always the three axes `data`, `fsdp` and `tensor`, in that order."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(
    data: int = 1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh of exactly `devices` (default: all of them); one side may be -1 and takes the rest."""
    devices = list(jax.devices() if devices is None else devices)
    # A side may take a part of one of the slice's own: 2 of 4x4 chips.
    placed = mesh_utils.create_device_mesh(
        sides_of(data, fsdp, tensor, len(devices)), devices=devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


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
