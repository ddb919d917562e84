"""Curves and episodes of runs as a page; see lfpc_jax/cli/report.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("report"))
