"""`python -m lfpc_jax COMMAND ...` is `lfpc COMMAND ...`."""

import sys

from lfpc_jax.cli.lfpc import main

if __name__ == "__main__":
    sys.exit(main())
