"""The second stage of the small world's warm start: to read at any distance, and to name places.

    python launch/train.py --config micro/words.py --run runs/warm/words

Goes on from micro/close.py. Two thirds of the pictures are sharp views, from close ones of a mark
to whole scenes, and the answer says which way the stripes run. A third are scenes at sizes from
blurred to sharp, and the answer lists the boxes of all marks, each behind its block's colour. There
a colour finds its block without having to be carried over from a question first, which is what a
tiny model takes longest to learn, and every answer teaches it three or four times.

Hardware: two CPU cores, a quarter of an hour. Expect: a loss of about 0.41 nats a token.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import PIL.Image

from configs.micro import baseline
from lfpc_jax.config import DataSettings, Source, TrainConfig
from lfpc_jax.data import canvas, scene
from lfpc_jax.grpo.objective import Objective
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.trajectory import Box4, Picture, Record, Size

SCENES = 6000
SEED = 1
"""Of the scenes; the arms train on seed 0."""
SIDES = (56, 56, 112, 224)
WIDEST = 1.5
"""The logarithm of how many marks a view is wide, at most."""
STEP = 5
"""Boxes are written in steps of so many per cent: finer ones are digits that nobody can know."""


def get_config() -> TrainConfig:
    config = baseline.get_config()
    return replace(
        config,
        stage="sft",
        steps=400,
        model=replace(config.model, path="runs/warm/close"),
        data=DataSettings(
            train=(Source("listed", listed), Source("views", views, weight=2.0)),
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
    return (f"<answer>{record.answer}</answer>",)


def listed(path: str) -> Iterator[Record]:
    """Scenes asked for all boxes, which are answered in the order of their colours."""
    rng = np.random.default_rng(SEED)
    for planned in _scenes():
        things = sorted(planned.things, key=lambda thing: scene.MICRO.colours.index(thing.colour))
        boxes = (written(around(thing.mark_box, 1.3), planned.settings.size) for thing in things)
        yield Record(
            id=f"{path}/{planned.id}",
            question="Where are the blocks?",
            answer="".join(f" {thing.colour}{box}" for thing, box in zip(things, boxes)),
            picture=_encoded(canvas.paint(planned)),
            longest_side=int(rng.choice(SIDES)),
        )


def views(path: str, widest: float = WIDEST, scenes: int = SCENES) -> Iterator[Record]:
    """The mark asked about, somewhere in a view at full sharpness: of itself, or up to all of the
    scene."""
    rng = np.random.default_rng(SEED)
    for planned in _scenes(scenes):
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
    shares = [min(max(edge / extent, 0), 1) for edge, extent in zip(box, size * 2)]
    x1, y1, x2, y2 = (round(100 / STEP * share) * STEP for share in shares)
    return f"{x1}, {y1}, {max(x2, x1 + STEP)}, {max(y2, y1 + STEP)}"


def _scenes(count: int = SCENES) -> Iterator[scene.Scene]:
    for index in range(count):
        yield scene.plan(scene.MICRO, SEED, "train", index)


def _encoded(image: PIL.Image.Image) -> Picture:
    kept = io.BytesIO()
    image.save(kept, "PNG", compress_level=1)
    return Picture(data=kept.getvalue())
