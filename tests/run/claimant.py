"""A process that claims a folder: `claimant.py FOLDER BEAT`. For each line it reads it says whether
the folder is still its own; it releases it at the end of its input."""

import sys
from pathlib import Path

from lfpc_jax.run.claim import held

with held(Path(sys.argv[1]), beat=float(sys.argv[2])) as claim:
    print("held", flush=True)
    for _ in sys.stdin:
        try:
            claim.check()
            print("ours", flush=True)
        except ValueError as error:
            print(error, flush=True)
