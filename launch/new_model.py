"""A small random model to train from nothing; see lfpc_jax/cli/new_model.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("new_model"))
