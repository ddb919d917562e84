"""One set from several; see lfpc_jax/cli/gather.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("gather"))
