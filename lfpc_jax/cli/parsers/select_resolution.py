"""The flags of `lfpc select`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import judge_flags, process_flags, revision_flag
from lfpc_jax.cli.flags import positive, share, temperature
from lfpc_jax.cli.parsers import asking
from lfpc_jax.data.rejected import MAX_SHARE

STRATEGIES = ("answer", "hard", "random", "none")
SEARCHES = ("scan", "bisect")
TURN_TOKENS = 512
"""Answers without the tool are short."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "Chooses at which size each image of a set is shown in Stage I, by asking the model."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", nargs="+", metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", type=Path, metavar="DIR", help="needed by the strategy `answer`")
    revision_flag.add(parser)
    parser.add_argument("--strategy", choices=STRATEGIES, default="answer")
    parser.add_argument("--search", choices=SEARCHES, default="scan")
    parser.add_argument("--n-answers", type=positive, default=1, help="at each level")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument(
        "--exact", action="store_true", help="answers that differ in wording are different"
    )
    judge_flags.add(parser)
    parser.add_argument("--harshest", type=int, default=224, help="longest side, pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chunk", type=positive, default=256, help="records at a time")
    asking.add(parser, "image_tokens", "turn_tokens", turn_tokens=TURN_TOKENS)
    parser.add_argument("--temperature", type=temperature, help="default: 0 for one answer, else 1")
    parser.add_argument("--slots", type=positive, default=32, help="answers at once")
    parser.add_argument("--max-lost", type=share, default=MAX_SHARE, help="share of records")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--tensor", type=positive, default=1, help="devices to spread the model over"
    )
    process_flags.add(parser)
    return parser
