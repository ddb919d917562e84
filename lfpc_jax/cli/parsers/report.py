"""The flags of `lfpc report`."""

import argparse
from pathlib import Path

from lfpc_jax.cli.flags import positive

SECONDS = 30
"""Between two looks at what is watched."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Curves, results and every episode of one or several runs, as one HTML "
            "page and PNG plots."
        )
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument(
        "--about",
        action="append",
        metavar="TEXT",
        help="a paragraph above the results: what is compared; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page; plots lie beside it")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="the tokenizer of runs that have none of their own",
    )
    parser.add_argument(
        "--episodes", type=int, default=500, metavar="N", help="at most, of all runs together"
    )
    parser.add_argument(
        "--parts", default="*", metavar="PATTERN", help="of the trajectories, as 'validation-*'"
    )
    parser.add_argument(
        "--side", type=int, default=1024, metavar="PIXELS", help="of originals on the page"
    )
    parser.add_argument(
        "--watch", nargs="?", type=positive, const=SECONDS, metavar="SECONDS",
        help="write the page again when something new is there, until the runs have finished; "
        f"looks every {SECONDS} seconds, or as often as is said here",
    )  # fmt: skip
    return parser
