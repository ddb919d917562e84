"""The last stage of the small world's warm start: whole episodes, as a mediocre model has them.

    python launch/train.py --config micro/warmstart.py --run runs/warm/start

Goes on from micro/places.py. Seven episodes of ten are questions about scenes at sizes from blurred
to sharp. Most look first, in a rough box: up to twice as wide as the mark and off its centre. The
others answer at once; from a blurred scene that is a guess. The rest is what came before, so that
it stays. `make warmstart` runs all five stages and writes configs/micro/warm, from which every arm
of the demo begins.

Hardware: two CPU cores, a quarter of an hour. Expect: about half of the answers right, boxes that
hold most of the mark, and as many calls from sharp pictures as there are answers without one.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from configs.micro import places, words
from lfpc_jax.config import Source, TrainConfig
from lfpc_jax.rollout.dialogue import View
from lfpc_jax.trajectory import Record

SIDES = (56, 56, 84, 112, 224, 224)
SHARP = 168
"""The least side of a picture in which stripes can be read."""
AT_ONCE = {True: 0.5, False: 0.35}
"""The share of episodes without a look, from sharp pictures and from others."""


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (
        Source("scenes", scenes, weight=0.7),
        Source("listed", words.listed, weight=0.15),
        Source("views", words.views, weight=0.15),
    )
    return replace(
        config,
        steps=200,
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
        x, y = 0.25 * rng.standard_normal(2)
        box = words.around(mark, rng.uniform(1, 2.2), x, y)
        calls.append(places.CALL % words.written(box, view.original.size))
    return (*calls, answer)
