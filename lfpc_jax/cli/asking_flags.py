"""How a model is asked: the flags of `parsers/asking.py`, completed. A flag that is left out takes
its value from the model's folder, or from `USUAL` if the folder does not say."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax

from lfpc_jax.cli.parsers.asking import EPISODE_TOKENS, FLAGS
from lfpc_jax.rollout.asking import BOX, Asking
from lfpc_jax.run.dialogues import prompt_of
from lfpc_jax.run.models import asking_of

USUAL = Asking(episode_tokens=EPISODE_TOKENS)
"""A model that says nothing is asked like this, as the paper has it."""

BOX_USUAL = Asking(dialogue="box", turn_tokens=32, **BOX)
"""A model that says nothing is asked for a box like this. The authors' code trains with 32
tokens."""


def resolved(
    args: argparse.Namespace,
    model: Path | None,
    *,
    usual: Asking = USUAL,
    several: Sequence[str] = (),
    turns: bool = True,
) -> argparse.Namespace:
    """The flags, completed by what the model's folder says, and the `prompt` of this code. It
    prints in what they differ from how the model was trained to be asked. The limit over all turns
    is compared only if there are several `turns`.

    The command holds the dialogue of `usual`. A crop network cannot be asked questions, which
    raises ValueError; a model that answers questions can be asked for a box."""
    of_model = None if model is None else asking_of(model)
    if of_model is not None and of_model.dialogue != usual.dialogue:
        usual = _otherwise(model, of_model, usual)
        of_model = None
    given = {name: value for name, value in vars(args).items() if name in FLAGS}
    single = {name: value for name, value in given.items() if name not in several}
    start = usual if of_model is None else of_model
    if not start.episode_tokens:
        start = replace(start, episode_tokens=usual.episode_tokens)
    asking = replace(start, **single)
    asking = replace(asking, prompt=prompt_of(asking))
    values = {field.name: getattr(asking, field.name) for field in dataclasses.fields(asking)}
    for name in several:
        values[name] = given.get(name, [values[name]])
        for value in values[name]:
            replace(asking, **{name: value})  # refuses what cannot be
    if of_model is not None:
        others = {n: values[n][0] for n in several if getattr(of_model, n) not in values[n]}
        if turns and asking.max_turns * asking.turn_tokens > asking.episode_tokens > 0:
            others["episode_tokens"] = asking.episode_tokens
        _say(model, of_model.changed(replace(of_model, **single | others, prompt=asking.prompt)))
    return argparse.Namespace(**vars(args) | values)


def _otherwise(model: Path | None, of_model: Asking, usual: Asking) -> Asking:
    """How a model is asked that was trained for another dialogue."""
    if of_model.dialogue == "box":
        raise ValueError(
            f"{model}: is a crop network: it proposes boxes and answers no question. Name the "
            "model that is to answer as --target, if this command has that flag; otherwise give "
            "the answering model as --model"
        )
    if jax.process_index() == 0:
        print(f"{model}: is asked for boxes, and was trained to answer questions", file=sys.stderr)
    return replace(usual, image_tokens=of_model.image_tokens)


def _say(model: Path | None, changed: str) -> None:
    if changed and jax.process_index() == 0:
        print(f"{model}: is asked differently than it was trained: {changed}", file=sys.stderr)
