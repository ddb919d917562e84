"""Meshes of devices that are not there, which a program can be traced for."""

from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType


def mesh(platform: str) -> Any:
    """A context in which a mesh of one such device is set."""
    device = jax.sharding.AbstractDevice(device_kind="absent", num_cores=None, platform=platform)
    axes = ("data", "fsdp", "tensor")
    described = AbstractMesh((1, 1, 1), axes, (AxisType.Auto,) * 3, abstract_device=device)
    return jax.sharding.use_abstract_mesh(described)
