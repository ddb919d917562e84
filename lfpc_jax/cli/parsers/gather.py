"""The flags of `lfpc gather`."""

import argparse
from pathlib import Path

from lfpc_jax.cli.flags import positive, share
from lfpc_jax.data.rejected import MAX_SHARE

TABLES = ("jsonl", "parquet")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Writes one set in the project's layout from several sets, here or on the Hub."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "data", nargs="+", metavar="SET", help="a folder in our layout, READER:PATH, or OWNER/NAME"
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--boxes", type=Path, metavar="FILE",
        help="JSON of boxes by record; only records that it has are written",
    )  # fmt: skip
    parser.add_argument("--table", choices=TABLES, default="jsonl")
    parser.add_argument(
        "--link", action="store_true", help="name pictures that are files where they are"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="records of each set")
    parser.add_argument("--max-lost", type=share, default=MAX_SHARE, help="share of records")
    return parser
