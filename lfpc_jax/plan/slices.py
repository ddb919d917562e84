"""TPU slices that are not there: named, described by libtpu, and never started."""

import os
import re
from dataclasses import dataclass

import jax

GIB = 2**30
_HBM_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 96}
"""Memory of a chip as published."""


@dataclass(frozen=True)
class Slice:
    name: str
    devices: tuple[jax.Device, ...]
    hbm_bytes: int


def tpu_slice(name: str) -> Slice:
    """The slice `generation:shape`, as `v5e:2x4` or `v5p:2x2x2`."""
    generation = name.split(":")[0]
    if generation not in _HBM_GIB or not re.fullmatch(r"\w+:\d+x\d+(x\d+)?", name):
        raise ValueError(
            f"slice {name!r}: expected generation:shape, as v5e:2x4 or v5p:2x2x2; "
            f"generations known: {', '.join(_HBM_GIB)}"
        )
    # Read by libtpu when it is loaded: there is no machine to ask, and others may plan beside us.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if name.endswith(":1x1") else {}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **one_chip)
    except Exception as error:  # libtpu raises several kinds, of the runtime's own
        raise ValueError(
            f"slice {name!r}: libtpu does not describe it ({str(error).splitlines()[0]}); check "
            "the shape, and that the extra is installed: pip install 'lfpc_jax[plan]'"
        ) from error
    return Slice(name, tuple(topology.devices), _HBM_GIB[generation] * GIB)
