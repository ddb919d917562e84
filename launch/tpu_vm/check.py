"""Checks that all processes find each other, run the same code and count all devices.

    check.py [SLICES]

Run it on every worker at once (`pod.sh setup` does), or under srun or torchrun. With SLICES, the
devices must be of so many TPU slices.
"""

import sys

from lfpc_jax.distributed import processes


def main() -> int:
    processes.start(processes.ProcessSettings(connect_seconds=120))
    processes.agree({})
    import jax  # not before start, which decides what it sees

    from lfpc_jax.distributed.mesh import slice_of

    slices = len({slice_of(device) for device in jax.devices()})
    if len(sys.argv) > 1 and slices != int(sys.argv[1]):
        print(f"error: found devices of {slices} slices in place of {sys.argv[1]}", file=sys.stderr)
        return 1
    kinds = sorted({device.device_kind for device in jax.devices()})
    print(
        f"process {jax.process_index()} of {jax.process_count()}: "
        f"{jax.local_device_count()} of {jax.device_count()} devices, {', '.join(kinds)}"
        + (f", of {slices} slices" if slices > 1 else "")
    )
    processes.barrier("checked", 120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
