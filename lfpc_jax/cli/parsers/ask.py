"""The flags of `lfpc ask`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import revision_flag, target_flags
from lfpc_jax.cli.flags import positive, temperature
from lfpc_jax.cli.parsers import asking


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "One question about one image: the conversation as it unfolds, and a "
            "picture of where it looked."
        )
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    revision_flag.add(parser)
    parser.add_argument("--image", type=Path, required=True, metavar="FILE")
    parser.add_argument("--question", required=True)
    parser.add_argument(
        "--options", nargs="+", default=[], help="texts of A, B, ...; then the answer is a letter"
    )
    parser.add_argument("--out", type=Path, default=Path("ask.png"), metavar="FILE")
    asking.add(parser)
    target_flags.add(parser)
    parser.add_argument(
        "--longest-side",
        type=positive,
        metavar="PIXELS",
        help="downsample the shown image to it first",
    )
    parser.add_argument("--temperature", type=temperature, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--tensor", type=positive, default=1, help="devices that share one copy of the model"
    )
    return parser
