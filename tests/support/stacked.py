"""Runs a script of launch/ with stacked layers: loops over them take twice as long to compile.

stacked.py SCRIPT WORDS ...
"""

import runpy
import sys
from dataclasses import replace

from lfpc_jax.model import tuning


def main() -> None:
    tuning._KNOWN["cpu"] = replace(tuning.tuning("cpu"), unstacked=False)
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
