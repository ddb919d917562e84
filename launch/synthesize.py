"""The synthetic world; see lfpc_jax/cli/synthesize.py."""

import sys

from lfpc_jax.cli.synthesize import main

if __name__ == "__main__":
    sys.exit(main())
