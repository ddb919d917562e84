"""Memory of the real programs on a slice that is not there; see lfpc_jax/cli/plan.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("plan"))
