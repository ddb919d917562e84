"""Several models on the same questions; see lfpc_jax/cli/compare.py."""

import sys

from lfpc_jax.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
