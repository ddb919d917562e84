"""Labels for a crop network's imitation; see lfpc_jax/cli/label_boxes.py."""

import sys

from lfpc_jax.cli.start import start

if __name__ == "__main__":
    sys.exit(start("label_boxes"))
