"""Recorded episodes, computed again and compared; see lfpc_jax/cli/replay.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("replay"))
