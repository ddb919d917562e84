"""The whole method in a small world; see lfpc_jax/cli/demo.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("demo"))
