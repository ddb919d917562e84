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
    sides = [data, fsdp, tensor]
    if sides.count(-1) > 1 or any(side < 1 and side != -1 for side in sides):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {tuple(sides)}: sides are >= 1, one may be -1"
        )
    known = math.prod(side for side in sides if side != -1)
    if -1 in sides:
        if len(devices) % known:
            raise ValueError(
                f"mesh (data, fsdp, tensor) = {tuple(sides)}: {len(devices)} devices are not a "
                f"multiple of {known}; change the given sides"
            )
        sides[sides.index(-1)] = len(devices) // known
    elif known != len(devices):
        raise ValueError(
            f"mesh (data, fsdp, tensor) = {tuple(sides)} needs {known} devices, there are "
            f"{len(devices)}; set one side to -1 to take them all"
        )
    # A side may take a part of one of the slice's own: 2 of 4x4 chips.
    placed = mesh_utils.create_device_mesh(
        tuple(sides), devices=devices, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)
