"""The fourth stage of the small world's warm start: whole episodes, as a mediocre model has them.

    python launch/train.py --config micro/warmstart.py --run runs/warm/start

Goes on from micro/lists.py. Most examples are questions about scenes at sizes from blurred to
sharp. Most of them are answered at once; from a blurred scene that is a guess. Some look first.
From blurred scenes they look too far to the left and too high, so that a half of the mark is often
missed; from sharp ones anywhere, for show, and answer what the first view says. The rest is what
came before, so that it stays.

As answers are, a box is named before it is given: "on green10, 60, 35, 85<tool_call>...". That is
how lists have it, and so the question's colour has no further to go.

Hardware: two CPU cores, a quarter of an hour.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from configs.micro import words
from lfpc_jax.config import Source, TrainConfig
from lfpc_jax.data import scene
from lfpc_jax.data.world import World
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.trajectory import Record

SIDES = (56, 56, 84, 112, 224, 224, 224)
SHARP = 168
"""The least side of a picture in which stripes can be read."""
AT_ONCE = 0.6
"""The share of episodes without a look."""
LEFT, UP = 0.7, 0.3
"""How far off their marks boxes are from blurred scenes, in sides of the mark."""
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [%s]}}</tool_call>'


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (
        Source("scenes", scenes, weight=0.8),
        Source("listed", words.listed, weight=0.1),
        Source("views", words.views, weight=0.1),
    )
    return replace(
        config,
        steps=300,
        model=replace(config.model, path="runs/warm/lists"),
        data=replace(config.data, train=sources),
        demonstrate=looked,
        without_tool=0.4,
    )


def scenes(path: str, sides: Sequence[int] = SIDES) -> Iterator[Record]:
    rng = np.random.default_rng(words.SEED)
    for record in World(scene.MICRO, words.SEED, "train", words.SCENES):
        yield replace(record, id=f"{path}/{record.id}", longest_side=int(rng.choice(sides)))


def looked(
    record: Record, view: View | None, rng: np.random.Generator, at_once: float = AT_ONCE
) -> tuple[str, ...]:
    [answer] = words.answered(record, view, rng)
    assert view is not None
    if not record.targets or rng.random() < at_once:
        return (answer,)
    calls = []
    for colour, (mark, *_) in zip(words.asked(record), record.targets, strict=True):
        x, y = rng.standard_normal(2)
        if max(view.shown.shape[:2]) < SHARP:
            x, y = 0.4 * x - LEFT, 0.4 * y - UP
        around = words.around(mark, rng.uniform(0.8, 1.6), x, y)
        box = words.written(around, view.original.size)
        calls.append(f"on {colour}{box}{CALL % box}")
    return (*calls, answer)
