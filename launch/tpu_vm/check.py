"""Checks that all processes of this slice find each other, run the same code and count all devices.

Run on every worker at once (`pod.sh setup` does), or under srun or torchrun.
"""

import sys

from lfpc_jax.distributed import processes


def main() -> int:
    processes.start(processes.ProcessSettings(connect_seconds=120))
    processes.agree({})
    import jax  # not before start, which decides what it sees

    kinds = sorted({device.device_kind for device in jax.devices()})
    print(
        f"process {jax.process_index()} of {jax.process_count()}: "
        f"{jax.local_device_count()} of {jax.device_count()} devices, {', '.join(kinds)}"
    )
    processes.barrier("checked", 120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
