"""GPUs that are not here, for which XLA compiles if jax's CUDA plugin is installed."""

from functools import cache

import jax

from lfpc_jax.plan import gpus, slices

PLUGIN_MISSING = not gpus.plugin_is_there()
REASON = "compiling for a GPU needs jax's CUDA plugin: pip install 'jax[cuda12]'"
OPTIONS = dict(gpus.OPTIONS)


@cache
def h100(hosts: int = 1) -> tuple[jax.Device, ...]:
    """The GPUs of machines of eight."""
    return slices.find(f"h100:{hosts}x8").devices
