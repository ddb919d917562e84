"""Devices to plan for: TPU slices and GPUs that are not there (described by libtpu and by JAX's
CUDA plugin, never started), and the CPU or the GPUs of this machine. Their chips are in `chips`.
"""

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import jax
from jax.sharding import Mesh

from lfpc_jax.distributed.mesh import slice_of
from lfpc_jax.plan import gpus
from lfpc_jax.plan.chips import GPUS, TPUS, Chip, Gpu
from lfpc_jax.plan.compiling import Machine

_MOST_CPUS = 1024


@dataclass(frozen=True)
class Slice:
    """Devices of one kind. `absent` is the GPU that they are, if they are not there."""

    name: str
    platform: str
    devices: tuple[jax.Device, ...]
    chip: Chip
    absent: Gpu | None = None

    @property
    def chips_a_host(self) -> int:
        return len(self.devices) // self.hosts

    @property
    def hosts(self) -> int:
        return len({device.process_index for device in self.devices})

    @property
    def slices(self) -> int:
        return len({slice_of(device) for device in self.devices})

    @property
    def capability(self) -> tuple[int, int] | None:
        """CUDA's, of GPUs that are not there."""
        return self.absent.capability if self.absent else None

    def machine(self, mesh: Mesh) -> Machine:
        """What the compiler must know to compile for a mesh of these devices."""
        hosts = [device.process_index for device in mesh.devices.flat]
        gpus_apart = self.platform == "gpu" and self.hosts > 1
        return Machine(
            options=gpus.OPTIONS if self.absent else {},
            hosts=tuple(hosts) if gpus_apart else (),
            capability=self.capability,
        )


def find(name: str) -> Slice:
    """Finds devices by name: `v5e:2x4` or `v5p:2x2x2` is a slice of such TPUs, and `2xv5e:4x4` are
    two slices, joined by the data center's network. `h100:8` is a host with so many GPUs and
    `h100:2x8` are two of them. `cpu:8` is so many devices of this machine's CPU, which share its
    memory. `gpu` is this machine's GPUs, and `gpu:4` four of them."""
    kind, _, sides = name.partition(":")
    several = re.fullmatch(r"([1-9]\d*)x([a-z]\w*)", kind)
    count, generation = (int(several[1]), several[2]) if several else (1, kind)
    if generation in TPUS and re.fullmatch(r"\d+x\d+(x\d+)?", sides):
        return _tpus(name, f"{generation}:{sides}", count, TPUS[generation])
    if kind in GPUS and (shape := re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)", sides)):
        return _absent_gpus(name, kind, int(shape[1] or 1), int(shape[2]))
    if kind == "cpu" and sides.isdecimal():
        return _cpus(name, int(sides))
    if kind == "gpu" and (sides.isdecimal() or not sides):
        return _gpus(name, int(sides or 0))
    raise ValueError(
        f"topology {name!r}: expected a slice of TPUs, as v5e:2x4 or v5p:2x2x2, several, as "
        f"2xv5e:4x4, hosts with GPUs, as h100:8 or h100:2x8, or cpu:N, or gpu; known are "
        f"{', '.join(TPUS)} and {', '.join(GPUS)}"
    )


def _tpus(name: str, one: str, count: int, chip: Chip) -> Slice:
    # Read by libtpu when it is loaded: there is no machine to ask, and others may plan beside us.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if one.endswith(":1x1") else {}
    if count > 1:
        options["num_slices"] = count
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=one, **options)
    except Exception as error:  # libtpu raises several kinds, of the runtime's own
        raise ValueError(
            f"topology {name!r}: libtpu does not describe it ({str(error).splitlines()[0]}); check "
            "the shape, and that the extra is installed: pip install 'lfpc_jax[plan]'"
        ) from error
    return Slice(name, "tpu", tuple(topology.devices), chip)


def _absent_gpus(name: str, kind: str, hosts: int, of_each: int) -> Slice:
    gpu = GPUS[kind]
    devices = gpus.devices(gpu, hosts, of_each)
    return Slice(name, "gpu", devices, gpus.chip(gpu), gpu)


def _cpus(name: str, count: int) -> Slice:
    if not 1 <= count <= _MOST_CPUS:
        raise ValueError(f"topology {name!r}: name one to {_MOST_CPUS:,} devices, as cpu:8")
    with suppress(RuntimeError):  # too late: another backend has started, with as many as it has
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if count > len(devices):
        raise ValueError(f"topology {name!r}: this process has {len(devices)} devices of the CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Slice(name, "cpu", tuple(devices[:count]), Chip(memory // count))


def _gpus(name: str, count: int) -> Slice:
    try:
        devices = jax.devices("gpu")
    except RuntimeError as error:
        raise ValueError(
            f"topology {name!r}: this machine has no GPU that JAX finds; GPUs that are not here "
            f"are named by their kind, as h100:8 (known are {', '.join(GPUS)})"
        ) from error
    if count > len(devices):
        raise ValueError(f"topology {name!r}: this machine has {len(devices)} GPUs")
    memory = devices[0].memory_stats()["bytes_limit"]
    chip = replace(_peaks(devices[0].device_kind), hbm_bytes=memory)
    return Slice(name, "gpu", tuple(devices[: count or None]), chip)


def _peaks(kind: str) -> Chip:
    """Of a GPU by the name that it gives itself, as NVIDIA A100-SXM4-80GB."""
    words = re.findall(r"\w+", kind.lower())
    names = {*words, *map("".join, pairwise(words))}
    return next((gpus.chip(gpu) for name, gpu in GPUS.items() if name in names), Chip(0))
