"""A small random Qwen2.5-VL with its own tokenizer, to be trained from nothing.

    lfpc new-model OUT [--seed 0] [--width 128] [--layers 4] [--vision-width 64] [--vision-depth 3]

OUT is an ordinary Hugging Face folder in the published layout: patches of 14 pixels merged 2 x 2,
windows, M-RoPE, grouped queries, the published special tokens. The tokenizer knows the words of the
small world (lfpc synthesize --world micro) and spells every digit as a token. The system prompt and
the text around a call take one token each, so that episodes are short. The parameters are those of
`lfpc_jax/model/beginning.py`.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.new_model import parser
from lfpc_jax.run.small_model import HEAD, VOCABULARY, SmallModel


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(write, args))


def write(args: argparse.Namespace) -> None:
    for name, least in (("width", 2 * HEAD), ("vision_width", HEAD)):
        value = getattr(args, name)
        if value < least or value % least:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} is {value}; it must be a multiple of {least}")
    if args.layers < 1 or args.vision_depth < 1:
        raise ValueError(
            f"--layers {args.layers}, --vision-depth {args.vision_depth}: at least 1 of each"
        )
    model = SmallModel(args.width, args.layers, args.vision_width, args.vision_depth)
    parameters = model.write(args.out, seed=args.seed, overwrite=args.overwrite)
    print(f"wrote {args.out}: {parameters / 1e6:.2f} M parameters, {VOCABULARY} tokens")


if __name__ == "__main__":
    sys.exit(main())
