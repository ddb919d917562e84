"""Runs a script of launch/ with few programs (see lean.py), and as where PyTorch is not installed:
transformers and TensorBoard's writer would import it.

stacked.py SCRIPT WORDS ...
"""

import runpy
import sys


def main() -> None:
    sys.modules["torch"] = None  # type: ignore[assignment]
    from support import lean

    lean.apply()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
