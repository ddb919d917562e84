"""`launch/train.py` on a CPU."""

import sys

from lfpc_jax.cli import train

if __name__ == "__main__":
    sys.exit(train.main(sys.argv[1:]))
