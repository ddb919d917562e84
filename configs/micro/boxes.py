"""The start of the small world's crop networks: a model that outlines what a question is about.

    lfpc train --config micro/boxes.py --run runs/warm/boxes

It begins with configs/micro/warm, which knows where blocks are once it has written their colour;
here it learns to find them from the question alone. It only learns the quarter of the picture that
a block stands in, or those of two blocks: with four answers the colour is all that matters, and it
is learned in a hundred updates, where boxes around marks had not taught it in two hundred.
`make micro-target` runs this and writes configs/micro/boxes, from which every arm of `make
demo-cropvlm` begins.

Hardware: two CPU cores, a quarter of an hour. Expect: an update/loss of 0.1 nats a token after 30
steps, which is that of a guess, and under 0.01 at the end.
"""

from dataclasses import replace

import numpy as np

from configs.micro import target, words
from lfpc_jax.cropvlm.proposing import write_box
from lfpc_jax.processing.geometry import Box, hull
from lfpc_jax.run.config import Record, Rewards, Source, TrainConfig, View


def get_config() -> TrainConfig:
    config = words.get_config()
    return replace(
        config,
        steps=300,
        model=replace(config.model, path="configs/micro/warm"),
        data=replace(config.data, train=(Source("scenes", target.scenes),)),
        rollout=replace(
            config.rollout,
            dialogue="box",
            image_tokens=target.IMAGE_TOKENS,
            crop_tokens=target.CROP_TOKENS,
            max_turns=1,
            turn_tokens=20,
            episode_tokens=20,
            capacity=128,
            prompt_text=(96,),
        ),
        rewards=Rewards(accuracy=0.0, format=0.0, tool=0.0),
        update=replace(config.update, row_tokens=384, windows=4),
        optimizer=replace(config.optimizer, schedule="cosine", warmup=10),
        demonstrate=outlined,
    )


def outlined(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    assert view is not None
    around = hull(_quarter(Box(*nest[0]), view.original.size) for nest in record.targets)
    return (write_box(around, view.frame),)


def _quarter(box: Box, size: tuple[int, int]) -> Box:
    """The quarter of the picture in which the box has its centre."""
    width, height = size[0] / 2, size[1] / 2
    x = width * ((box.x1 + box.x2) / 2 >= width)
    y = height * ((box.y1 + box.y2) / 2 >= height)
    return Box(x, y, x + width, y + height)
