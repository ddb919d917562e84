"""The flags of `lfpc compare`."""

import argparse
from pathlib import Path

MEASURES = (
    "accuracy", "noise", "drop", "calls", "overlap", "iou", "area", "full",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Several models on the same questions, side by side, and what changes "
            "from one to another."
        )
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--arm", nargs="+", action="append", required=True, metavar=("NAME", "FOLDER")
    )
    parser.add_argument(
        "--change", nargs=3, action="append", default=[], metavar=("MEASURE", "BEFORE", "AFTER"),
        help=f"measures: {', '.join(MEASURES)}",
    )  # fmt: skip
    parser.add_argument(
        "--over-seeds", action="store_true",
        help="intervals for other seeds as well, where arms have several",
    )  # fmt: skip
    parser.add_argument(
        "--rank", nargs="+", metavar="ARM",
        help="the arms of the rank correlations, which a target should have been shown alike",
    )  # fmt: skip
    return parser
