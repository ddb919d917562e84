"""Devices to plan for: TPU slices that are not there (described by libtpu, never started), and the
CPU or the GPUs of this machine.

Memory is what the compiler lets a program use. Rates are the published peaks of a chip for dense
bfloat16, so times computed from them are lower bounds. Sources, read in November 2026:
cloud.google.com/tpu/docs/v5e, /v5p and /v6e; the data sheets of NVIDIA's A100 80 GB SXM, H100 SXM
and H200 SXM, whose network rate here is NVLink in one direction.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace

import jax

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A chip's peaks per second: floating-point operations, bytes to and from its memory, and bytes
    to other chips. None where they are not published."""

    hbm_bytes: int
    flops: float = 0.0
    hbm: float = 0.0
    wire: float = 0.0


TPUS = {
    "v5e": Chip(int(15.75 * GIB), 197e12, 819e9, 200e9),
    "v5p": Chip(int(95.74 * GIB), 459e12, 2765e9, 600e9),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1600e9, 400e9),
}
GPUS = {  # memory is the device's own
    "A100": Chip(0, 312e12, 2039e9, 300e9),
    "H100": Chip(0, 989e12, 3350e9, 450e9),
    "H200": Chip(0, 989e12, 4800e9, 450e9),
}


@dataclass(frozen=True)
class Slice:
    name: str
    devices: tuple[jax.Device, ...]
    chip: Chip

    @property
    def platform(self) -> str:
        return "tpu" if self.name.split(":")[0] in TPUS else self.name.split(":")[0]

    @property
    def chips_a_host(self) -> int:
        return len(self.devices) // self.hosts

    @property
    def hosts(self) -> int:
        return len({device.process_index for device in self.devices})


def find(name: str) -> Slice:
    """Finds a slice by name: `v5e:2x4` or `v5p:2x2x2` is a slice of such TPUs. `cpu:8` is so many
    devices of this machine's CPU, which share its memory. `gpu` is this machine's GPUs, and `gpu:4`
    four of them."""
    kind, _, sides = name.partition(":")
    if kind in TPUS and re.fullmatch(r"\d+x\d+(x\d+)?", sides):
        return _tpus(name, TPUS[kind])
    if kind == "cpu" and sides.isdecimal():
        return _cpus(name, int(sides))
    if kind == "gpu" and (sides.isdecimal() or not sides):
        return _gpus(name, int(sides or 0))
    raise ValueError(
        f"slice {name!r}: expected generation:shape, as v5e:2x4 or v5p:2x2x2, or cpu:N, or gpu; "
        f"generations known: {', '.join(TPUS)}"
    )


def _tpus(name: str, chip: Chip) -> Slice:
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
    return Slice(name, tuple(topology.devices), chip)


def _cpus(name: str, count: int) -> Slice:
    if count < 1:
        raise ValueError(f"slice {name!r}: name at least one device, as cpu:8")
    with suppress(RuntimeError):  # too late: another backend has started, with as many as it has
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if count > len(devices):
        raise ValueError(f"slice {name!r}: this process has {len(devices)} devices of the CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Slice(name, tuple(devices[:count]), Chip(memory // count))


def _gpus(name: str, count: int) -> Slice:
    try:
        devices = jax.devices("gpu")
    except RuntimeError as error:
        raise ValueError(f"slice {name!r}: this machine has no GPU that JAX finds") from error
    if count > len(devices):
        raise ValueError(f"slice {name!r}: this machine has {len(devices)} GPUs")
    first = devices[0]
    rates = next((chip for kind, chip in GPUS.items() if kind in first.device_kind), Chip(0))
    memory = first.memory_stats()["bytes_limit"]
    return Slice(name, tuple(devices[: count or None]), replace(rates, hbm_bytes=memory))
