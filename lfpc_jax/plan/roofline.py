"""The least seconds that a call can take on a chip, from published peaks, and what limits it.

A call takes at least as long as its FLOPs at the peak of the matrix units, its bytes at the peak of
the memory, and what it sends at the peak of the wire within a slice or host and of the network
between them, whichever is longest. Nothing reaches all peaks, hosts cut crops and wait for each
other, and a rollout's last rows run alone. So real steps take longer.
"""

from dataclasses import dataclass

from lfpc_jax.plan.chips import Chip
from lfpc_jax.plan.work import Load


@dataclass(frozen=True)
class LeastTime:
    """The least time of one call. `bound` is what limits it: compute, memory, wire (between the
    chips of a slice, or the GPUs of a host) or network (between slices or hosts)."""

    seconds: float
    bound: str


def least_time(load: Load, sent: float, chip: Chip, *, between: float = 0.0) -> LeastTime | None:
    """The least time of a call that sends so many bytes, of which `between` go between slices or
    hosts; None for chips whose peaks are not published."""
    if not chip.flops:
        return None
    times = {
        "compute": load.flops / chip.flops,
        "memory": load.bytes / chip.hbm,
        "wire": (sent - between) / chip.wire,
    }
    if between:
        times["network"] = between / chip.network
    bound = max(times, key=lambda name: times[name])
    return LeastTime(times[bound], bound)
