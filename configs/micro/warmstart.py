"""The last stage of the small world's warm start: whole episodes, as a mediocre model has them.

    python launch/train.py --config micro/warmstart.py --run runs/warm/start

Goes on from micro/places.py. Six episodes of ten are questions about scenes at sizes from blurred
to sharp. Some look first, in a rough box: up to 2.5 times as wide as the mark and off its centre.
Most answer at once; from a blurred scene that is a guess. The rest is what came before, so that it
stays. `make warmstart` runs all five stages and writes configs/micro/warm, from which every arm of
the demo begins.

Hardware: two CPU cores, ten minutes. Expect, greedy: three calls of four episodes from blurred
pictures and 64% right, boxes that hold 0.6 of the mark; few calls from sharp ones, and 31% right.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from configs.micro import places, words
from lfpc_jax.config import Source, TrainConfig
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.trajectory import Record

SIDES = (56, 56, 84, 112, 224, 224, 224)
SHARP = 168
"""The least side of a picture in which stripes can be read."""
AT_ONCE = {True: 0.7, False: 0.6}
"""The share of episodes without a look, from sharp pictures and from others."""


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (
        Source("scenes", scenes, weight=0.6),
        Source("listed", words.listed, weight=0.1),
        Source("views", words.views, weight=0.3),
    )
    return replace(
        config,
        steps=250,
        model=replace(config.model, path="runs/warm/places"),
        data=replace(config.data, train=sources),
        demonstrate=looked,
        without_tool=0.4,
    )


def scenes(path: str) -> Iterator[Record]:
    return places.scenes(path, SIDES)


def looked(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    [answer] = words.answered(record, view, rng)
    assert view is not None
    sharp = max(view.shown.shape[:2]) >= SHARP
    if not record.targets or rng.random() < AT_ONCE[sharp]:
        return (answer,)
    calls = []
    for mark, *_ in record.targets:
        x, y = 0.45 * rng.standard_normal(2)
        box = words.around(mark, rng.uniform(0.8, 2.5), x, y)
        calls.append(places.CALL % words.written(box, view.original.size))
    return (*calls, answer)
