"""The second stage of the small world's warm start: to read at any distance, and to name places.

    python launch/train.py --config micro/words.py --run runs/warm/words

Goes on from micro/close.py, with three kinds of pictures in equal shares. Sharp views, from close
ones of a mark to whole scenes, of which it says which way the stripes on one block run. Sharp
scenes, where it says so of all blocks, each behind its colour. And scenes at sizes from blurred to
sharp, of which it lists the boxes of all marks in the same way. In such lists a colour finds its
block without having to be carried over from a question first, which is what a tiny model takes
longest to learn, and every answer teaches it three or four times.

An answer is read out before it is given, behind the colour it is about ("on green rising, falling
<answer>rising, falling</answer>"), for the same reason.

Hardware: two CPU cores, 25 minutes. Expect: update/loss of 0.9 nats a token after 40 steps, 0.49
after 200, 0.30 after 400 and 0.23 at the end.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import PIL.Image

from configs import common
from lfpc_jax.data import canvas, scene
from lfpc_jax.run.config import DataSettings, Objective, Record, Source, TrainConfig, View
from lfpc_jax.trajectory import Box4, Picture, Size

SCENES = 3000
SEED = 1
"""Of the scenes; the arms train on seed 0."""
SIDES = (56, 56, 112, 224)
WIDEST = 1.5
"""The logarithm of how many marks a view is wide, at most."""
STEP = 5
"""Boxes are written in steps of so many per cent: finer ones are digits that nobody can know."""


def get_config() -> TrainConfig:
    config = common.stage1(common.MICRO)
    return replace(
        config,
        stage="sft",
        steps=600,
        model=replace(config.model, path="runs/warm/close"),
        data=DataSettings(
            train=(Source("views", views), Source("told", told), Source("listed", listed)),
            threads=1,
        ),
        rollout=replace(config.rollout, prompts=64),
        update=replace(config.update, mini_batch=64, windows=72, objective=Objective(kind="sft")),
        optimizer=replace(config.optimizer, learning_rate=5e-4, schedule="constant", b2=0.95),
        demonstrate=answered,
        checkpoint_every=50,
        validate_every=10_000,
        trajectories_every=200,
    )


def answered(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    """Read out, then given."""
    colours = asked(record)
    parts = [record.answer] if len(colours) == 1 else record.answer.split(", ")
    read = " ".join(f"on {colour} {part}" for colour, part in zip(colours, parts))
    return (read + given(record),)


def asked(record: Record) -> list[str]:
    """The colours that a question is about."""
    return [word for word in record.question.split() if word in scene.MICRO.colours]


def given(record: Record) -> str:
    return f"<answer>{record.answer}</answer>"


def told(path: str) -> Iterator[Record]:
    """Sharp scenes, and what all their marks show."""
    for planned in _scenes():
        said = (f" {thing.colour} {', '.join(thing.mark)}" for thing in _by_colour(planned))
        yield Record(
            id=f"{path}/{planned.id}",
            question="Which way do the stripes run?",
            answer="".join(said),
            picture=_encoded(canvas.paint(planned)),
        )


def listed(path: str) -> Iterator[Record]:
    """Scenes of all sizes, and where all their marks are."""
    rng = np.random.default_rng(SEED)
    for planned in _scenes():
        said = (
            f" {thing.colour}{written(around(thing.mark_box, 1.3), planned.settings.size)}"
            for thing in _by_colour(planned)
        )
        yield Record(
            id=f"{path}/{planned.id}",
            question="Where are the blocks?",
            answer="".join(said),
            picture=_encoded(canvas.paint(planned)),
            longest_side=int(rng.choice(SIDES)),
        )


def views(path: str, widest: float = WIDEST) -> Iterator[Record]:
    """The mark asked about, somewhere in a view at full sharpness: of itself, or up to all of the
    scene."""
    rng = np.random.default_rng(SEED)
    for planned in _scenes():
        if planned.asked > 1:
            continue
        x1, y1, x2, _ = planned.things[0].mark_box
        width = math.exp(widest * rng.random() ** 1.5) * (x2 - x1)
        side = min(width, *planned.settings.size)
        slack = side - (x2 - x1)
        left, upper = (
            min(max(start - slack * rng.random(), 0), extent - side)
            for start, extent in zip((x1, y1), planned.settings.size)
        )
        box = (round(left), round(upper), round(left + side), round(upper + side))
        yield Record(
            id=f"{path}/{planned.id}",
            question=planned.question,
            answer=planned.answer,
            picture=_encoded(canvas.paint(planned).crop(box)),
        )


def around(box: Box4, times: float, x: float = 0, y: float = 0) -> Box4:
    """A box `times` as wide, off the centre by `x` and `y` of its sides."""
    x1, y1, x2, y2 = box
    across, down = (x1 + x2) / 2 + x * (x2 - x1), (y1 + y2) / 2 + y * (y2 - y1)
    half_x, half_y = times * (x2 - x1) / 2, times * (y2 - y1) / 2
    return across - half_x, down - half_y, across + half_x, down + half_y


def written(box: Box4, size: Size) -> str:
    """A box in per cent, as far as the picture goes."""
    edges = [round(100 / STEP * edge / extent) * STEP for edge, extent in zip(box, size * 2)]
    x1, y1 = (min(max(edge, 0), 100 - STEP) for edge in edges[:2])
    x2, y2 = (min(edge, 100) for edge in edges[2:])
    return f"{x1}, {y1}, {max(x2, x1 + STEP)}, {max(y2, y1 + STEP)}"


def _scenes() -> Iterator[scene.Scene]:
    for index in range(SCENES):
        yield scene.plan(scene.MICRO, SEED, "train", index)


def _by_colour(planned: scene.Scene) -> list[scene.Thing]:
    return sorted(planned.things, key=lambda thing: scene.MICRO.colours.index(thing.colour))


def _encoded(image: PIL.Image.Image) -> Picture:
    kept = io.BytesIO()
    image.save(kept, "PNG", compress_level=1)
    return Picture(data=kept.getvalue())
