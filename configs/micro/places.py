"""The fourth stage of the small world's warm start: to call the tool where the question points.

    python launch/train.py --config micro/places.py --run runs/warm/places

Goes on from micro/lists.py. Three quarters are scenes with a question, at sizes from blurred to
sharp, and what is taught is the call alone, its box close around the mark. The rest are close
views, so that reading stays. The colour has to be carried from the question to the box, which is
not learned within 300 updates from rough boxes.

Hardware: two CPU cores, some minutes. Expect: a loss of about 0.2 nats a token.
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

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [%s]}}</tool_call>'


def get_config() -> TrainConfig:
    config = words.get_config()
    sources = (Source("scenes", scenes, weight=3.0), Source("views", words.views))
    return replace(
        config,
        steps=300,
        model=replace(config.model, path="runs/warm/lists"),
        data=replace(config.data, train=sources),
        rollout=replace(config.rollout, max_turns=1),
        demonstrate=called,
    )


def scenes(path: str, sides: Sequence[int] = words.SIDES) -> Iterator[Record]:
    rng = np.random.default_rng(words.SEED)
    for record in World(scene.MICRO, words.SEED, "train", words.SCENES):
        yield replace(record, id=f"{path}/{record.id}", longest_side=int(rng.choice(sides)))


def called(record: Record, view: View | None, rng: np.random.Generator) -> tuple[str, ...]:
    if not record.targets:
        return words.answered(record, view, rng)
    assert view is not None
    box = words.around(record.targets[0][0], 1.3)
    return (CALL % words.written(box, view.original.size),)
