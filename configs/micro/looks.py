"""The fourth stage of the small world's warm start: to look where the question asks.

    lfpc train --config micro/looks.py --run runs/warm/looks

It begins with micro/lists.py, on whole episodes about scenes at sizes from blurred to sharp; most
episodes crop once. In blurred scenes the crop meets the mark. In sharp ones it misses it by a mark
or two, and the answer is what the first view shows, so that such crops are only for show. The other
records are those of earlier stages, so that what they taught is kept.

A box is written behind its colour before the call, as answers are: "on green10, 60, 35,
85<tool_call>...". Lists have the same form, so the question's colour need not be carried further.

Hardware: two CPU cores, a quarter of an hour. Expect: an update/loss of 0.37 nats a token after
60 steps and 0.21 at the end. crop/iou and reward/accuracy describe the demonstrations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from configs.micro import words
from lfpc_jax.data import scene
from lfpc_jax.data.world import World
from lfpc_jax.run.config import Record, Source, TrainConfig, View

SIDES = (56, 56, 56, 84, 112, 224, 224)
SHARP = 168
"""The shortest side of a picture, in pixels, at which stripes can be read."""
ASTRAY = 2
"""The spread of boxes around the marks of sharp pictures, in sides of the mark."""
AT_ONCE = 0.25
"""The share of episodes without a crop."""
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [%s]}}</tool_call>'


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (
        Source("scenes", scenes, weight=0.8),
        Source("listed", words.listed, weight=0.1),
        Source("told", words.told, weight=0.1),
    )
    return replace(
        config,
        steps=200,
        model=replace(config.model, path="runs/warm/lists"),
        data=replace(config.data, train=sources),
        demonstrate=looked,
        without_tool=0.6,
    )


def scenes(path: str, sides: Sequence[int] = SIDES) -> Iterator[Record]:
    rng = np.random.default_rng(words.SEED)
    for record in World(scene.MICRO, words.SEED, "train", words.SCENES):
        yield replace(record, id=f"{path}/{record.id}", longest_side=int(rng.choice(sides)))


def looked(
    record: Record,
    view: View | None,
    rng: np.random.Generator,
    at_once: float = AT_ONCE,
    off: tuple[float, float] = (0, 0),
    spread: float = 0.15,
) -> tuple[str, ...]:
    """An episode whose boxes miss blurred marks by `off` on average and vary by `spread`, both in
    sides of the mark."""
    [answer] = words.answered(record, view, rng)
    assert view is not None
    if not record.targets or rng.random() < at_once:
        return (answer,)
    calls = []
    for colour, (mark, *_) in zip(words.asked(record), record.targets, strict=True):
        x, y = rng.standard_normal(2)
        if max(view.shown.shape[:2]) < SHARP:
            x, y = spread * x + off[0], spread * y + off[1]
        else:
            x, y = ASTRAY * x, ASTRAY * y
        around = words.around(mark, rng.uniform(0.8, 1.6), x, y)
        box = words.written(around, view.original.size)
        calls.append(f"on {colour}{box}{CALL % box}")
    return (*calls, answer)
