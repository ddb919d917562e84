"""The flags of `lfpc evaluate`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import judge_flags, process_flags, revision_flag, target_flags
from lfpc_jax.cli.flags import positive, share, temperature
from lfpc_jax.cli.parsers import asking
from lfpc_jax.data.rejected import MAX_SHARE

ALTERATIONS = ("noise", "blank", "other", "downsampled", "truth")
MODES = ("tool", "direct")
BOXES = ("true", "centre", "random", "whole", "rel_att")
SQUARE = 224.0
SEVERAL = ("image_tokens",)
"""The flags of `asking` that take a list."""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Benchmarks of a model, and whether its crops matter.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--model", type=Path, metavar="DIR")
    revision_flag.add(parser)
    parser.add_argument("--data", nargs="+", default=[], metavar="[NAME=]PATH")
    asking.add(parser, several=SEVERAL)
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=argparse.SUPPRESS,
        help="direct has no tool, and shows a target no crop (default: tool; of a target without "
        "a crop network direct)",
    )  # fmt: skip
    parser.add_argument(
        "--diagnose", nargs="*", choices=ALTERATIONS, metavar="ALTERATION",
        help=f"also with crops altered: {', '.join(ALTERATIONS)}; all, if none is named",
    )  # fmt: skip
    _add_endpoint(parser)
    target_flags.add(parser)
    parser.add_argument(
        "--boxes", nargs="+", choices=BOXES, default=[], help="also show the target these boxes"
    )
    parser.add_argument(
        "--expand", nargs="+", type=float, default=[], metavar="FACTOR",
        help="also show it the true boxes with their area times each factor",
    )  # fmt: skip
    parser.add_argument(
        "--layer", nargs="+", type=int, default=[], metavar="N",
        help="also show it the rel_att boxes of these layers, counted from 0",
    )  # fmt: skip
    parser.add_argument(
        "--square", type=float, default=SQUARE, metavar="PIXELS",
        help="side of the smallest square that rel_att may choose, in pixels of the original",
    )  # fmt: skip
    parser.add_argument(
        "--likelihoods", action="store_true",
        help="also compute the target's log-likelihood of the right answer, for every box",
    )  # fmt: skip
    parser.add_argument("--rollouts", type=positive, default=1, help="answers to each question")
    parser.add_argument("--temperature", type=temperature, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=positive, help="the first questions of each benchmark only")
    parser.add_argument("--max-lost", type=share, default=MAX_SHARE, help="share of questions")
    parser.add_argument("--slots", type=positive, default=32, help="conversations at once")
    parser.add_argument("--rescore", action="store_true", help="ask nothing")
    judge_flags.add(parser)
    parser.add_argument(
        "--max-unjudged", type=float, default=0.5,
        help="share of the answers put to the judge, or of all, that may stay without a verdict",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--tensor", type=positive, default=1, help="devices to spread the model over"
    )
    process_flags.add(parser)
    return parser


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "model on a server", "which is asked in place of --model, whose folder says how:"
    )
    group.add_argument(
        "--endpoint", default="", metavar="URL",
        help="an OpenAI-compatible server, as http://HOST:PORT/v1",
    )  # fmt: skip
    group.add_argument("--endpoint-model", default="", help="its name on that server")
    group.add_argument(
        "--endpoint-key-variable", default="", help="environment variable that holds its key"
    )
    group.add_argument(
        "--endpoint-seconds", type=float, default=300.0, help="for one reply, at most"
    )
