"""GPUs that are not here, for which XLA compiles if jax's CUDA plugin is installed."""

from functools import cache
from importlib.util import find_spec

import jax
from jax.experimental import topologies

PLUGIN_MISSING = not any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
REASON = "compiling for a GPU needs jax's CUDA plugin: pip install 'jax[cuda12]'"

# The numbers are those of XLA's own description of the chip,
# openxla/xla, xla/backends/gpu/target_config/specs/h100_sxm.txtpb.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

OPTIONS = {"xla_gpu_autotune_level": 0}
"""Compiler options: without the chip there is nothing to time kernels on."""


@cache
def h100(hosts: int = 1) -> tuple[jax.Device, ...]:
    """The GPUs of machines of eight."""
    topology = topologies.get_topology_desc(
        "", platform="cuda", target_config=_H100, topology=f"1x{hosts}x8"
    )
    return tuple(topology.devices)
