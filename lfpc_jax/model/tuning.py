"""Settings for each kind of device. No other module decides them."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax

from lfpc_jax.model.config import Kernel

log = logging.getLogger(__name__)


KERNEL = "LFPC_KERNEL"
"""An environment variable: the attention kernel that a setting of "auto" means, in place of the
default of the kind of device."""


@dataclass(frozen=True)
class Tuning:
    """`dtype` and `kernel` are what a setting of "auto" means.

    `unstacked` compiles a loop over layers in place of a scan. For few layers on a CPU that is
    nearly twice as fast, and compiles sooner.

    `positions_last` gives a cache's keys the layout `[B, K, H, S]`. On a CPU the scores of a decode
    step then take a third of the time; accelerators would copy the cache to write into it.

    `update_options` are compiler options for updates, before `update_options` below adds those that
    depend on the machine's CPU.
    """

    platform: str
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    kernel: Kernel = "xla"
    unstacked: bool = False
    positions_last: bool = False
    update_options: Mapping[str, Any] = field(default_factory=dict)


_KNOWN = {
    "tpu": Tuning("tpu", kernel="splash"),
    "gpu": Tuning("gpu", kernel="cudnn"),
    "cpu": Tuning(
        "cpu",
        dtype="float32",
        unstacked=True,
        positions_last=True,
        update_options={"xla_cpu_prefer_vector_width": 512},
    ),
}


_WITHOUT_YNN = {"xla_cpu_experimental_ynn_fusion_type": ""}
"""Matrix products by Eigen in place of YNN. Which is faster depends on the CPU: on dense rows, an
update was 4 % faster with Eigen on one machine and 7 % slower on an AMD EPYC with 512-bit vectors
(docs/log.md)."""


def tuning(platform: str | None = None) -> Tuning:
    """The settings for a kind of device; by default for that of the mesh that is set, which need
    not be here, or else for the one that JAX uses."""
    if platform is None:
        device = jax.sharding.get_abstract_mesh().abstract_device
        platform = device.platform if device else jax.default_backend()
    known = _KNOWN.get(platform, Tuning(platform))
    kernel = os.environ.get(KERNEL, "auto")
    if kernel not in get_args(Kernel):
        raise ValueError(
            f"{KERNEL}={kernel} in the environment: choose one of {', '.join(get_args(Kernel))}"
        )
    return known if kernel == "auto" else replace(known, kernel=cast(Kernel, kernel))


@cache
def update_options(platform: str) -> dict[str, Any] | None:
    """The platform's compiler options for updates. None if it has none, or if this XLA does not
    know them."""
    options = dict(tuning(platform).update_options)
    if platform == "cpu" and cpu_vendor() != "AuthenticAMD":
        options |= _WITHOUT_YNN
    if not options:
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        log.info("updates are compiled without %s: %s", options, error)
        return None
    return options


def cpu_vendor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """The vendor of the CPU as Linux lists it (GenuineIntel, AuthenticAMD), or an empty string."""
    if not listing.is_file():
        return ""
    vendor = re.search(r"^vendor_id\s*:\s*(\S+)", listing.read_text(), re.MULTILINE)
    return vendor[1] if vendor else ""
