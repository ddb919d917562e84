"""The least seconds that a call can take on a chip, from published peaks, and what limits it.

A call takes at least as long as its FLOPs at the peak of the matrix units, its bytes at the peak of
the memory, and what it sends at the peak of the network, whichever is longest. Nothing reaches all
peaks, hosts cut crops and wait for each other, and a rollout's last rows run alone. So real steps
take longer.
"""

from dataclasses import dataclass

from lfpc_jax.plan.slices import Chip
from lfpc_jax.plan.work import Load


@dataclass(frozen=True)
class LeastTime:
    """The least time of one call. `bound` is what limits it: compute, memory or wire (the
    network)."""

    seconds: float
    bound: str


def least_time(load: Load, sent: float, chip: Chip) -> LeastTime | None:
    """The least time of a call; None for chips whose peaks are not published."""
    if not chip.flops:
        return None
    times = {
        "compute": load.flops / chip.flops,
        "memory": load.bytes / chip.hbm,
        "wire": sent / chip.wire,
    }
    bound = max(times, key=lambda name: times[name])
    return LeastTime(times[bound], bound)
