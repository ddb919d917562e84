"""Benchmarks and diagnostics of a model; see lfpc_jax/cli/evaluate.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("evaluate"))
