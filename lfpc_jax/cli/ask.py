"""One question about one image: the conversation as it unfolds, and a picture of where it looked.

    ask.py --model DIR --image FILE --question TEXT [--options red blue] [--out ask.png]

DIR is a Hugging Face folder, a folder that convert.py wrote, or a training run. Boxes are printed
in pixels of the original. Decoding is greedy, unless a temperature is given.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from lfpc_jax.cli import asking_flags
from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.processing.geometry import Box
from lfpc_jax.report.episode_printer import EpisodePrinter
from lfpc_jax.report.sketch import sketch
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run import progress
from lfpc_jax.run.dialogues import after_prompt, zooming
from lfpc_jax.run.models import load_model
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Group, Picture, Record

_PROMPT_TEXT = (512, 2048)
"""Buckets for the tokens of a question."""


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return ask(args)
    except (ValueError, OSError, Unusable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--image", type=Path, required=True, metavar="FILE")
    parser.add_argument("--question", required=True)
    parser.add_argument(
        "--options", nargs="+", default=[], help="texts of A, B, ...; then the answer is a letter"
    )
    parser.add_argument("--out", type=Path, default=Path("ask.png"), metavar="FILE")
    asking_flags.add(parser)
    parser.add_argument(
        "--longest-side", type=int, metavar="PIXELS", help="downsample the shown image to it first"
    )
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--tensor", type=int, default=1, help="devices that share one copy of the model"
    )
    return parser


def ask(args: argparse.Namespace) -> int:
    # ------------------------------------------------------------------ the question
    pictures.measured(Picture(path=str(args.image)))  # a bad image is found before the model loads
    record = Record(
        id=str(args.image),
        question=args.question,
        answer="",
        picture=Picture(path=str(args.image)),
        options=tuple(args.options),
        longest_side=args.longest_side,
    )
    # ------------------------------------------------------------------ the model
    args = asking_flags.resolved(args, args.model)
    mesh = rollout_mesh(args.tensor, devices=jax.local_devices()[: args.tensor])
    model = load_model(args.model, dtype=args.dtype, mesh=mesh)
    dialogue = zooming(
        model.assets,
        image_tokens=args.image_tokens,
        crop_tokens=args.crop_tokens,
        convention=args.convention,
    )
    # ------------------------------------------------------------------ the conversation
    rules = Rules(
        max_turns=args.max_turns,
        turn_tokens=args.turn_tokens,
        episode_tokens=args.episode_tokens,
        sampling=Sampling(temperature=args.temperature),
    )
    shapes = _shapes(args, rules, model.cfg.vision.window)
    engine = Engine(model.cfg, dialogue, shapes, rules, mesh=mesh)
    engine.load(model.params)
    printer = EpisodePrinter(dialogue)
    with progress.waiting("asking (the first answer compiles)"):
        groups = list(
            engine.run([record], rollouts=1, seed=args.seed, on_episode=printer.on_episode)
        )
    if not groups:
        [(_, reason)] = engine.stats.skipped
        raise ValueError(reason)
    # ------------------------------------------------------------------ the picture
    _draw(groups[0], args.out)
    print(f"wrote {args.out}")
    return 0


def _shapes(args: argparse.Namespace, rules: Rules, window: int) -> RolloutShapes:
    """One slot with room for the longest conversation."""
    replies = after_prompt(rules, args.crop_tokens)
    return RolloutShapes(
        slots=1,
        image_tokens=args.image_tokens,
        crop_tokens=args.crop_tokens,
        prompt_text=Buckets(_PROMPT_TEXT),
        capacity=args.image_tokens + _PROMPT_TEXT[-1] + replies,
        window=window,
    )


def _draw(group: Group, out: Path) -> None:
    [trajectory], [crops] = group.trajectories, group.crops
    assert group.image is not None
    boxes = [Box(*turn.crop.box) for turn in trajectory.turns if turn.crop is not None]
    original = pictures.original(group.record.picture)
    out.parent.mkdir(parents=True, exist_ok=True)
    sketch(original, group.image, list(zip(boxes, crops, strict=True))).save(out)
