"""Several models on the same questions; see lfpc_jax/cli/compare.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("compare"))
