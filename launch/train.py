"""Training; see lfpc_jax/cli/train.py."""

import sys

from lfpc_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
