"""Conversion and its proof; see lfpc_jax/cli/convert.py."""

import sys

from lfpc_jax.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
