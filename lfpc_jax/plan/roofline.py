"""Seconds from peaks: the least that a call can take on a chip, and what bounds it.

A call takes at least as long as its FLOPs at the matrix units' peak, its bytes at the memory's and
what it sends at the wire's, whichever is longest. Nothing reaches all peaks, hosts cut crops and
wait for each other, and a rollout's last rows run alone: real steps are longer.
"""

from dataclasses import dataclass

from lfpc_jax.plan.slices import Chip
from lfpc_jax.plan.work import Load


@dataclass(frozen=True)
class LeastTime:
    """Of one call; `bound` is compute, memory or wire."""

    seconds: float
    bound: str


def least_time(load: Load, sent: float, chip: Chip) -> LeastTime | None:
    """None for chips whose peaks nobody publishes."""
    if not chip.flops:
        return None
    times = {
        "compute": load.flops / chip.flops,
        "memory": load.bytes / chip.hbm,
        "wire": sent / chip.wire,
    }
    bound = max(times, key=lambda name: times[name])
    return LeastTime(times[bound], bound)
