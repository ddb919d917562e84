"""Training; see lfpc_jax/cli/train.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("train"))
