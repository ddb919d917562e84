"""The first stage of the small world's warm start, from random weights: to see, name and place.

    python launch/new_model.py runs/warm/random
    python launch/train.py --config micro/words.py --run runs/warm/words

A third of the pictures are close views of a mark, and the answer says which way its stripes run. A
third are scenes at sizes from blurred to sharp, and the answer lists the boxes of all marks, each
behind its block's colour; a third are sharp scenes, and it lists what every mark shows. There a
colour finds its block without having to be carried over from a question first, which is what a tiny
model takes longest to learn, and every answer teaches it three or four times.

Hardware: two CPU cores, a quarter of an hour. Expect: a loss of about 0.25 nats a token.
"""

import io
from collections.abc import Callable, Iterator
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
STEP = 5
"""Boxes are written in steps of so many per cent: finer ones are digits that nobody can know."""


def get_config() -> TrainConfig:
    config = baseline.get_config()
    return replace(
        config,
        stage="sft",
        steps=800,
        model=replace(config.model, path="runs/warm/random"),
        data=DataSettings(
            train=(Source("listed", listed), Source("told", told), Source("close", close)),
            threads=1,
        ),
        rollout=replace(config.rollout, prompts=64),
        update=replace(config.update, mini_batch=64, objective=Objective(kind="sft")),
        optimizer=replace(config.optimizer, learning_rate=5e-4, schedule="constant", b2=0.95),
        demonstrate=answered,
        checkpoint_every=50,
        validate_every=10_000,
        trajectories_every=200,
    )


def answered(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    return (f"<answer>{record.answer}</answer>",)


def listed(path: str) -> Iterator[Record]:
    """Scenes asked for all boxes."""
    rng = np.random.default_rng(SEED)
    for planned in _scenes():
        yield _asked(
            path,
            planned,
            "Where are the blocks?",
            lambda thing: written(around(thing.mark_box, 1.3), scene.MICRO.size),
            longest_side=int(rng.choice(SIDES)),
        )


def told(path: str) -> Iterator[Record]:
    """Sharp scenes asked for all stripes."""
    for planned in _scenes():
        yield _asked(
            path,
            planned,
            "Which way do the stripes run on the blocks?",
            lambda thing: f" {', '.join(thing.mark)}",
        )


def _asked(
    path: str,
    planned: scene.Scene,
    question: str,
    says: Callable[[scene.Thing], str],
    longest_side: int | None = None,
) -> Record:
    """A question about all things, which are answered in the order of their colours."""
    things = sorted(planned.things, key=lambda thing: scene.MICRO.colours.index(thing.colour))
    return Record(
        id=f"{path}/{planned.id}",
        question=question,
        answer="".join(f" {thing.colour}{says(thing)}" for thing in things),
        picture=_encoded(canvas.paint(planned)),
        longest_side=longest_side,
    )


def close(path: str) -> Iterator[Record]:
    """The mark asked about, 1 to 1.2 times as wide, somewhere in its view."""
    rng = np.random.default_rng(SEED)
    for planned in _scenes():
        if planned.asked > 1:
            continue
        x1, y1, x2, _ = planned.things[0].mark_box
        side = (x2 - x1) * rng.uniform(1, 1.2)
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


def _scenes() -> Iterator[scene.Scene]:
    for index in range(SCENES):
        yield scene.plan(scene.MICRO, SEED, "train", index)


def _encoded(image: PIL.Image.Image) -> Picture:
    kept = io.BytesIO()
    image.save(kept, "PNG", compress_level=1)
    return Picture(data=kept.getvalue())
