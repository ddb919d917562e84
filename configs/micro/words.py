"""The second stage of the small world's warm start: to read at any distance, and to locate marks.

    lfpc train --config micro/words.py --run runs/warm/words

It begins with micro/close.py, with three kinds of pictures in equal shares:
- sharp views, from close ones of a mark to whole scenes; the answer says which way the stripes on
  one block run;
- sharp scenes; the answer says so for all blocks, each behind its colour;
- scenes at sizes from blurred to sharp; the answer lists the boxes of all marks in the same way.

In such lists a colour finds its block without being carried over from a question first, which is
what a tiny model takes longest to learn, and every answer teaches it three or four times. For the
same reason an answer is spelled out behind its colour before it is given ("on green rising, falling
<answer>rising, falling</answer>").

Hardware: two CPU cores, 25 minutes. Expect: an update/loss of 0.9 nats a token after 40 steps, 0.49
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
"""The seed of the scenes; the arms train on seed 0."""
SIDES = (56, 56, 112, 224)
WIDEST = 1.5
"""The logarithm of the largest width of a view, in marks."""
STEP = 5
"""Boxes are written in steps of 5 per cent; the model could not know finer digits."""


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
    """The answer, spelled out behind its colours and then given."""
    colours = asked(record)
    parts = [record.answer] if len(colours) == 1 else record.answer.split(", ")
    read = " ".join(f"on {colour} {part}" for colour, part in zip(colours, parts))
    return (read + given(record),)


def asked(record: Record) -> list[str]:
    """The colours in a question."""
    return [word for word in record.question.split() if word in scene.MICRO.colours]


def given(record: Record) -> str:
    return f"<answer>{record.answer}</answer>"


def told(path: str) -> Iterator[Record]:
    """Records of sharp scenes; the answer says what all marks show."""
    for planned in _scenes():
        said = (f" {thing.colour} {', '.join(thing.mark)}" for thing in _by_colour(planned))
        yield Record(
            id=f"{path}/{planned.id}",
            question="Which way do the stripes run?",
            answer="".join(said),
            picture=_encoded(canvas.paint(planned)),
        )


def listed(path: str) -> Iterator[Record]:
    """Records of scenes at all sizes; the answer lists the boxes of all marks."""
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
    """Records of sharp views with the mark that is asked about somewhere in them: from views of the
    mark alone to ones of the whole scene."""
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
    """The box scaled by `times` about its centre, and moved by `x` and `y` of its sides."""
    x1, y1, x2, y2 = box
    across, down = (x1 + x2) / 2 + x * (x2 - x1), (y1 + y2) / 2 + y * (y2 - y1)
    half_x, half_y = times * (x2 - x1) / 2, times * (y2 - y1) / 2
    return across - half_x, down - half_y, across + half_x, down + half_y


def written(box: Box4, size: Size) -> str:
    """The part of a box that lies in the picture, in per cent."""
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
