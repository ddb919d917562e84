"""One question about one image: the conversation as it unfolds, and a picture of where it looked.

    lfpc ask --model DIR --image FILE --question TEXT [--options red blue] [--out ask.png]
    lfpc ask --model CROPPER --target DIR --image FILE --question TEXT

DIR is a Hugging Face folder, a folder that lfpc convert wrote, or a training run. Boxes are printed
in pixels of the original. Decoding is greedy, unless a temperature is given.

With --target (or --target-url and --target-model) the model is a crop network: it proposes a box,
and the target answers with and without its crop.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import jax
import PIL.Image
from jax.sharding import Mesh

from lfpc_jax.cli import asking_flags, command, revision_flag, target_flags
from lfpc_jax.cli.parsers.ask import parser
from lfpc_jax.cropvlm.local import Needs
from lfpc_jax.cropvlm.pair import shown_box
from lfpc_jax.cropvlm.showing import Showing
from lfpc_jax.cropvlm.target import Question, Target
from lfpc_jax.data import pictures
from lfpc_jax.data.rejected import Unusable
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.processing.geometry import Box
from lfpc_jax.report.episode_printer import EpisodePrinter
from lfpc_jax.report.sketch import draw, sketch
from lfpc_jax.rollout.asking import Asking
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run import progress
from lfpc_jax.run.building import open_target
from lfpc_jax.run.dialogues import after_prompt, dialogue_as
from lfpc_jax.run.models import load_model
from lfpc_jax.shapes import Buckets, RolloutShapes
from lfpc_jax.trajectory import Group, Picture, Record

_PROMPT_TEXT = (512, 2048)
"""Buckets for the tokens of a question."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(ask, args), {Unusable: 1})


def ask(args: argparse.Namespace) -> int:
    args.model = revision_flag.named(args.model, args.revision)
    # ------------------------------------------------------------------ the question
    if not args.question.strip():
        raise ValueError("--question is empty; ask something about the image")
    if not all(text.strip() for text in args.options):
        raise ValueError("--options: one of them is empty; give a text for each letter")
    _check_out(args.out)
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
    settings = target_flags.settings_of(args, args.out.parent / "said")
    usual = asking_flags.USUAL
    if settings is not None:  # what the target would refuse as too narrow is no valid box
        args.crop_tokens, usual = settings.crop_tokens, asking_flags.BOX_USUAL
    args = asking_flags.resolved(args, args.model, usual=usual)
    mesh = rollout_mesh(args.tensor, devices=jax.local_devices()[: args.tensor])
    target = None
    if settings is not None:
        target = open_target(settings, mesh, lambda showing: Needs.of(showing, [record]))
    group = _asked(args, record, mesh)
    # ------------------------------------------------------------------ the picture
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = draw(group) if target is None else _answered(group, target)
    picture.save(args.out)
    print(f"wrote {args.out}")
    return 0


def _check_out(file: Path) -> None:
    """Raises ValueError where no picture could be written, before a model is loaded."""
    if file.exists() and not file.is_file():
        raise ValueError(f"--out {file}: is no regular file; name a picture that may be written")
    if PIL.Image.registered_extensions().get(file.suffix.lower()) not in PIL.Image.SAVE:
        raise ValueError(f"--out {file}: no known ending of a picture; take .png, for example")


def _asked(args: argparse.Namespace, record: Record, mesh: Mesh) -> Group:
    """The model's conversation, which is printed as it unfolds."""
    model = load_model(args.model, dtype=args.dtype, mesh=mesh)
    asked = {field.name: getattr(args, field.name) for field in fields(Asking)}
    dialogue = dialogue_as(Asking(**asked), model.assets)
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
    return groups[0]


def _answered(group: Group, target: Target) -> PIL.Image.Image:
    """Prints what the target answers with the crop and without one, and draws what it saw."""
    record, [trajectory] = group.record, group.trajectories
    box = shown_box(trajectory)
    boxes = (None,) if box is None else (box, None)
    with progress.waiting("asking the target (a local one's first answer compiles)"):
        [answers] = target.answers([Question(record, boxes)])
    for shown, said in zip(boxes, answers):
        how = "without a crop" if shown is None else "with the crop"
        if said.fault:
            raise ValueError(f"the target could not be asked {how}: {said.fault}")
        print(f"the target {how}: {said.answer or '(an empty answer)'}")
    assert isinstance(target.dialogue, Showing)
    full, crop = target.dialogue.pictures(record, box)
    assert group.image is not None
    crops = [] if box is None or crop is None else [(Box(*box), crop)]
    original = pictures.original(record.picture)
    return sketch(original, group.image if full is None else full, crops, "as the target saw it")


def _shapes(args: argparse.Namespace, rules: Rules, window: int) -> RolloutShapes:
    """One slot with room for the longest conversation."""
    replies = after_prompt(rules, args.crop_tokens)
    return RolloutShapes(
        slots=1,
        image_tokens=args.image_tokens,
        crop_tokens=args.crop_tokens,
        prompt_text=Buckets(_PROMPT_TEXT),
        capacity=args.image_tokens + _PROMPT_TEXT[-1] + replies,
        own=replies,
        members=1,
        window=window,
    )


if __name__ == "__main__":
    sys.exit(main())
