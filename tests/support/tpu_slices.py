"""TPU slices as libtpu (the extra `plan`) describes them: devices, their processes and places."""

from collections import defaultdict
from functools import cache

import jax

from lfpc_jax.plan import slices

FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8")
NAMES = (
    *(f"{kind}:{sides}" for kind in ("v5e", "v6e") for sides in FLAT),
    *(f"v5p:{sides}" for sides in ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8")),
    "v5e:2x4 on one host",
    "v6e:2x4 on one host",
)


@cache
def devices(name: str) -> tuple[jax.Device, ...]:
    """A slice of eight chips is two hosts of four, or one of eight."""
    found = slices.find(name.split()[0]).devices  # sets libtpu up, too
    if not name.endswith("on one host"):
        return found
    from jax.experimental import topologies

    bounds = {"chips_per_host_bounds": (2, 4, 1)}
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name.split()[0], **bounds)
    return tuple(topology.devices)


def of_processes(name: str) -> dict[int, list[jax.Device]]:
    owned = defaultdict(list)
    for device in devices(name):
        owned[device.process_index].append(device)
    return owned
