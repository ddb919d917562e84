"""The flags of `lfpc replay`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import revision_flag
from lfpc_jax.cli.flags import not_negative, positive

TOLERANCE = {"float32": 1e-3, "bfloat16": 1.0}


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Computes a training run's recorded episodes again and reports every difference."
        ),
        epilog="Exit code: 0 if nothing differs, 3 if anything does.",
    )
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--part", nargs="+", default=[], help="default: all whose weights are kept")
    parser.add_argument("--limit", type=positive, metavar="N", help="records of each part")
    parser.add_argument("--model", type=Path, metavar="DIR", help="weights for all of the parts")
    revision_flag.add(parser)
    parser.add_argument(
        "--tolerance", type=float,
        help="largest difference of a token's log-probability; default: "
        + ", ".join(f"{limit:g} in {dtype}" for dtype, limit in TOLERANCE.items()),
    )  # fmt: skip
    parser.add_argument(
        "--show", type=not_negative, default=20, help="differences to print (default: 20)"
    )
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), help="default: the run's")
    parser.add_argument(
        "--tensor", type=positive, default=1, help="devices to spread the model over"
    )
    return parser
