"""Labels for a crop network's imitation; see lfpc_jax/cli/label_boxes.py."""

import sys

from lfpc_jax.cli.label_boxes import main

if __name__ == "__main__":
    sys.exit(main())
