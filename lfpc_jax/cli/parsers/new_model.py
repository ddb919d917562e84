"""The flags of `lfpc new-model`."""

import argparse
from pathlib import Path

from lfpc_jax.cli.flags import not_negative


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(
            "A small random Qwen2.5-VL with its own tokenizer, to be trained from nothing."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--width", type=int, default=128, help="width of the text model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vision-width", type=int, default=64)
    parser.add_argument("--vision-depth", type=int, default=3)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    return parser
