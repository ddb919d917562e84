"""The flags of `lfpc synthesize`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lfpc_jax.arrays import Size
from lfpc_jax.cli.flags import not_negative
from lfpc_jax.data import scene
from lfpc_jax.data.marks import VOCABULARIES
from lfpc_jax.data.scene import COLOURS, SPLITS, WORLDS, WorldSettings

FORMATS = ("layout", "hrbench", "vstar")
TABLES = ("jsonl", "parquet")


def parser(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The defaults of the world's flags are those of the `--world` in `argv`."""
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("--world", choices=WORLDS, default="default", help="settings to begin from")
    parser = argparse.ArgumentParser(
        description="Write scenes whose answer only the original shows.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        parents=[named],
    )
    _add_common(parser)
    _add_world(parser, WORLDS[named.parse_known_args(argv)[0].world])
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--count", type=int, default=1000, help="scenes of each format")
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--seed", type=not_negative, default=0)
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=["layout"])
    parser.add_argument("--table", choices=TABLES, default="jsonl")
    parser.add_argument(
        "--nested",
        nargs="+",
        type=float,
        metavar="TIMES",
        help="targets are boxes so many times as wide as their mark, ascending from 1; default: "
        "mark, object, object with surroundings",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_world(parser: argparse.ArgumentParser, default: WorldSettings) -> None:
    knobs = parser.add_argument_group("the world")

    def limits(flag: str, least_and_most: scene.Range) -> None:
        knobs.add_argument(
            flag, nargs=2, type=int, metavar=("LEAST", "MOST"), default=least_and_most
        )

    knobs.add_argument("--size", type=_size, default=default.size, help="SIDE or WIDTHxHEIGHT")
    limits("--objects", default.objects)
    limits("--object-side", default.object_side)
    limits("--mark-side", default.mark_side)
    knobs.add_argument("--cycles", type=float, default=default.cycles, help="waves along a mark")
    knobs.add_argument("--kinds", nargs="+", choices=tuple(VOCABULARIES), default=default.kinds)
    knobs.add_argument("--classes", type=int, default=default.classes, help="of each kind's marks")
    knobs.add_argument("--patches", nargs="+", type=int, choices=(1, 2), default=default.patches)
    knobs.add_argument(
        "--cross-patches",
        nargs="+",
        type=int,
        choices=(1, 2),
        default=default.cross_patches,
        help="of marks in questions about two objects; as --patches if not given",
    )
    knobs.add_argument("--shapes", nargs="+", choices=tuple(scene.FIT), default=default.shapes)
    knobs.add_argument("--colours", nargs="+", choices=tuple(COLOURS), default=default.colours)
    knobs.add_argument("--clutter", type=int, default=default.clutter)
    knobs.add_argument("--roughness", type=float, default=default.roughness, help="0 is plain")
    knobs.add_argument("--slope", type=float, default=default.slope, help="of colours, by place")
    knobs.add_argument("--tint", type=float, default=default.tint, help="0: grey plates")
    knobs.add_argument("--photographs", default="", help="folder of backgrounds; default: drawn")
    knobs.add_argument("--cross-share", type=float, default=default.cross_share)
    limits("--single-options", default.single_options)
    limits("--cross-options", default.cross_options)
    knobs.add_argument("--choices", action=argparse.BooleanOptionalAction, default=default.choices)
    knobs.add_argument("--longest-side", type=int, default=default.longest_side, help="the gap")


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    return int(width), int(height or width)
