"""The small world's target model: it answers from the full image and a crop, as published targets.

    lfpc train --config micro/target.py --run runs/warm/target

It begins with configs/micro/warm, which reads stripes. The full image shows where blocks are, and
hardly what stands on them; the crop shows that if it holds the mark and is not too wide. Boxes are
drawn from tight to far too wide, mostly about the mark and off it by a fourth of their sides on
average, else anywhere or around the whole image; some questions come without a box. Views of a part
of a scene in place of the full image teach to answer from a crop alone. `make micro-target` runs
this and writes configs/micro/target, which every arm of `make demo-cropvlm` asks.

Hardware: two CPU cores, a quarter of an hour. Expect: an update/loss of 0.37 nats a token after 60
steps, when it has learned the form, 0.25 after 200 and 0.2 at the end.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from configs.micro import words
from lfpc_jax.cropvlm.proposing import write_box
from lfpc_jax.data import scene
from lfpc_jax.data.world import World
from lfpc_jax.run.config import Record, Source, TrainConfig, View
from lfpc_jax.trajectory import Box4

IMAGE_TOKENS, CROP_TOKENS = 16, 12
UNBOXED, WHOLE, ANYWHERE = 0.15, 0.1, 0.2
"""The shares of scenes without a box, with the whole image, and with a box anywhere."""
OFF = 0.25
"""How far boxes are off the mark: the standard deviation, in their sides."""


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (Source("scenes", scenes, weight=0.85), Source("views", words.views, weight=0.15))
    return replace(
        config,
        steps=400,
        model=replace(config.model, path="configs/micro/warm"),
        data=replace(config.data, train=sources),
        rollout=replace(
            config.rollout,
            dialogue="target",
            image_tokens=IMAGE_TOKENS,
            crop_tokens=CROP_TOKENS,
            max_turns=2,
            capacity=160,
            prompt_text=(64,),
            observation_text=64,
        ),
        update=replace(config.update, row_tokens=384, windows=12),
        optimizer=replace(config.optimizer, schedule="cosine", warmup=10),
        demonstrate=answered,
    )


def scenes(path: str) -> Iterator[Record]:
    for record in World(scene.MICRO, words.SEED, "train", words.SCENES):
        yield replace(record, id=f"{path}/{record.id}")


def answered(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    """The box that is shown, if one is, and the answer."""
    answer = f"{record.answer[:1].upper()}{record.answer[1:]}."
    if not record.targets or rng.random() < UNBOXED:
        return (answer,)
    assert view is not None
    return write_box(drawn(record, rng), view.frame), answer


def drawn(record: Record, rng: np.random.Generator) -> Box4:
    width, height = scene.MICRO.size
    kind = rng.random()
    if kind < WHOLE:
        return 0.0, 0.0, float(width), float(height)
    if kind < WHOLE + ANYWHERE:
        sides = rng.uniform(0.15, 0.8, 2) * (width, height)
        x, y = rng.random(2) * ((width, height) - sides)
        return x, y, x + sides[0], y + sides[1]
    marks = np.array([nest[0] for nest in record.targets])
    around = (*marks[:, :2].min(axis=0), *marks[:, 2:].max(axis=0))
    times = 2 ** rng.uniform(-1, 2)
    x, y = OFF * rng.standard_normal(2) * max(times, 0.6)
    x1, y1, x2, y2 = words.around(around, times, x, y)
    least = 0.1 * width  # what is left of a box that lies beside the picture
    return (
        min(max(x1, 0.0), width - least),
        min(max(y1, 0.0), height - least),
        max(min(x2, float(width)), least),
        max(min(y2, float(height)), least),
    )
