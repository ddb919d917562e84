"""Conversion and its proof; see lfpc_jax/cli/convert.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("convert"))
