"""One question about one image; see lfpc_jax/cli/ask.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("ask"))
