"""The flags of `lfpc train`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import process_flags


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Trains a model: rollouts, rewards, advantages and updates, until all steps are done."
        ),
        epilog="Further flags override the config's settings, as --rollout.slots 32.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a file, or a name in "
                        "configs/; a size may follow, as in stage1.py:3b")  # fmt: skip
    parser.add_argument("--run", type=Path, metavar="DIR", help="default: runs/ and the name of "
                        "the config, as in runs/stage1_3b")  # fmt: skip
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print settings, shapes, budgets, what the sets hold; run nothing",
    )
    parser.add_argument(
        "--changed-data", action="store_true", help="resume although the records have changed"
    )
    parser.add_argument(
        "--other-budget",
        action="store_true",
        help="train although a set was selected at another image_tokens",
    )
    process_flags.add(parser)
    return parser
