"""A small random model to train from nothing; see lfpc_jax/cli/new_model.py."""

import sys

from lfpc_jax.cli.new_model import main

if __name__ == "__main__":
    sys.exit(main())
