"""Benchmarks and diagnostics of a model; see lfpc_jax/cli/evaluate.py."""

import sys

from lfpc_jax.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
