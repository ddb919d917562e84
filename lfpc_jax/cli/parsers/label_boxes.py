"""The flags of `lfpc label`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import process_flags, target_flags
from lfpc_jax.cli.flags import positive, share
from lfpc_jax.data.rejected import MAX_SHARE

SOURCES = ("grid", "outside", "truth")
TIES = ("smallest", "largest")
FACTORS = (45.0, 10.0, 4.0, 2.0, 1.0)
GRID = 5
"""Cells on a side of the grid."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Labels the records of a set with boxes, from which a crop network "
            "first learns by imitation."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", metavar="SET")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--boxes", choices=SOURCES, default="grid", help="where from")
    parser.add_argument(
        "--grid", type=positive, metavar="N", help=f"N x N cells; default: {GRID}, or that of OLD"
    )
    parser.add_argument("--again", type=Path, metavar="OLD", help="likelihoods of a former command")
    parser.add_argument(
        "--noise", type=float, metavar="CELLS",
        help="each side is moved outwards by up to so many cells; default: 1 for the grid, else 0",
    )  # fmt: skip
    parser.add_argument(
        "--within", type=float, default=1e-4, metavar="NATS",
        help="boxes whose likelihoods are so near the best count as equally good",
    )  # fmt: skip
    parser.add_argument("--ties", choices=TIES, default="smallest", help="of these")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument(
        "--factors", type=float, nargs="+", default=FACTORS, metavar="AREA",
        help="of outside boxes, from the part of the set that covers least to the one that covers "
        "most; published for small text",
    )  # fmt: skip
    parser.add_argument("--chunk", type=positive, default=16, help="records at a time")
    parser.add_argument("--max-lost", type=share, default=MAX_SHARE, help="share of records")
    parser.add_argument(
        "--tensor", type=positive, default=1, help="devices to spread the target over"
    )
    target_flags.add(parser)
    process_flags.add(parser)
    return parser
