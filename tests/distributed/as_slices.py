"""launch/train.py, with the devices of each process as a slice of their own."""

import sys

from lfpc_jax.cli import train
from lfpc_jax.distributed import mesh


def process_of(device) -> int:
    return device.process_index


if __name__ == "__main__":
    mesh.slice_of = train.slice_of = process_of
    sys.exit(train.main())
