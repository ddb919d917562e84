"""The synthetic world; see lfpc_jax/cli/synthesize.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("synthesize"))
