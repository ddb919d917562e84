"""The flags of `lfpc convert`."""

import argparse
from pathlib import Path

from lfpc_jax.cli import revision_flag
from lfpc_jax.cli.flags import positive


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Convert Qwen2.5-VL weights, or check them.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")

    def command(name: str, source: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("source", type=Path, metavar=source)
        revision_flag.add(added)
        return added

    orbax = command("to-orbax", "HF_DIR", "Hugging Face folder -> Orbax folder")
    hf = command("to-hf", "DIR", "Orbax folder or training run -> Hugging Face folder")
    for conversion in (orbax, hf):
        conversion.add_argument("out", type=Path, metavar="OUT")
        conversion.add_argument(
            "--dtype",
            choices=("float32", "bfloat16"),
            help="dtype of the weights that are written; default: as stored",
        )
        conversion.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")

    comparison = command("check", "HF_DIR", "compare logits and vision with transformers")
    comparison.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    comparison.add_argument("--prompts", type=positive, default=8)
    comparison.add_argument("--seed", type=int, default=0)
    comparison.add_argument(
        "--tolerance",
        type=float,
        help="largest difference that passes; default: 1e-4 in float32, none in bfloat16",
    )
    comparison.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures to FILE"
    )
    return parser
