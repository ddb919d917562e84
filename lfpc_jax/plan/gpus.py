"""GPUs that are not there, for which XLA compiles if JAX's CUDA plugin is installed.

The plugin takes a description of the chip as text (its `GpuTargetConfigProto`) in place of asking a
driver. Nothing can be timed without the chip, so the compiler takes its kernels untried
(`OPTIONS`).
"""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import jax

from lfpc_jax.plan.chips import GPU_SHARE, Chip, Gpu

OPTIONS: Mapping[str, Any] = {"xla_gpu_autotune_level": 0}

_CUDNN = (9, 10, 0)


def plugin_is_there() -> bool:
    return any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))


def devices(gpu: Gpu, hosts: int, of_each: int) -> tuple[jax.Device, ...]:
    """The GPUs of `hosts` hosts. Each host has `of_each` of them and is one process."""
    if not plugin_is_there():
        raise ValueError(
            f"{gpu.kind}: XLA compiles for GPUs only with JAX's CUDA plugin (about 5 GB; it needs "
            f"no GPU): pip install 'jax[cuda12]=={jax.__version__}', which is what the extra "
            "lfpc_jax[cuda] brings"
        )
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(
        platform="cuda", target_config=description(gpu), topology=f"1x{hosts}x{of_each}"
    )
    return tuple(topology.devices)


def chip(gpu: Gpu) -> Chip:
    share = float(os.environ.get(*GPU_SHARE))
    return Chip(int(share * gpu.memory), gpu.flops, gpu.hbm, gpu.wire, gpu.network)


def description(gpu: Gpu) -> str:
    """The chip as XLA's compiler reads it."""
    major, minor = gpu.capability
    version = dict(zip(("major", "minor", "patch"), _CUDNN))
    info: dict[str, Any] = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "threads_per_core_limit": gpu.threads,
        "shared_memory_per_block": 48 << 10,
        "shared_memory_per_block_optin": gpu.shared - 1024,
        "shared_memory_per_core": gpu.shared,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.lanes,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "memory_bandwidth": round(gpu.hbm),
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock,
        "device_memory_size": gpu.memory,
        "cuda_compute_capability": {"major": major, "minor": minor},
        "registers_per_core_limit": 2**16,
        "registers_per_block_limit": 2**16,
    }
    whole = {
        "gpu_device_info": info,
        "platform_name": '"CUDA"',
        "dnn_version_info": version,
        "device_description_str": f'"{gpu.kind}"',
    }
    return _proto(whole)


def _proto(fields: Mapping[str, Any]) -> str:
    """As the text format of a protocol buffer."""
    return " ".join(
        f"{name} {{ {_proto(value)} }}" if isinstance(value, Mapping) else f"{name}: {value}"
        for name, value in fields.items()
    )
