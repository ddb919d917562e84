"""Stage I's offline resolution selection; see lfpc_jax/cli/select_resolution.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("select_resolution"))
