"""Boxes that no crop network proposes, to be shown to a target model beside those that one does.

    true        the record's target boxes: the smallest of each, of several the smallest box around
                all, since the answering model sees one crop
    true_xF     that box with F times its area: scaled about its centre, its shape kept, and clipped
                at the image's edges, where it therefore ends up smaller
    centre      [.25, .25, .75, .75] of the image: a quarter of its area
    random      two corners drawn uniformly and independently over the image: each side covers a
                third on average, the area a ninth. Drawn from the seed, the record and the number
                of the rollout
    whole       the whole image, at the crop's budget

All are in pixels of the original. ViCrop's boxes (`rel_att`) are in `cropvlm.vicrop`.

A box that no network proposed becomes an episode of one turn without ids, whose text says where the
box is from. Without a box an episode has no turn.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from lfpc_jax.data import pictures
from lfpc_jax.evaluation.alter import shows
from lfpc_jax.evaluation.conditions import CENTRE, DIRECT, RANDOM, WHOLE, factor_of
from lfpc_jax.processing.geometry import Box, clamp, hull
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rollout.episode import rollout_key
from lfpc_jax.trajectory import Box4, Crop, End, Group, Record, Size, Trajectory, Turn

_CENTRE = (0.25, 0.25, 0.75, 0.75)

BoxOf = Callable[[Record, Size, int], Box4 | None]
"""The box for a record whose original has this size, and the number of the rollout."""


def boxes_of(condition: str, *, seed: int = 0) -> BoxOf:
    """The boxes of a condition, of which the target's attention knows nothing."""
    if (factor := factor_of(condition)) is not None:
        return lambda record, size, _: true(record, size, factor)
    match condition:
        case _ if condition == DIRECT:
            return lambda record, size, rollout: None
        case _ if condition == CENTRE:
            return lambda record, size, _: _share(_CENTRE, size)
        case _ if condition == RANDOM:
            return lambda record, size, rollout: drawn(record, size, seed, rollout)
        case _ if condition == WHOLE:
            return lambda record, size, _: _share((0.0, 0.0, 1.0, 1.0), size)
    raise ValueError(f"no boxes are called {condition!r}")


def true(record: Record, size: Size, factor: float = 1.0) -> Box4:
    """The record's true box with `factor` times its area, clipped at the image's edges."""
    if not record.targets:
        raise ValueError(f"record {record.id!r} has no targets, which its true box needs")
    return expanded_box(hull(clamp(Box(*nest[0]), size) for nest in record.targets), factor, size)


def expanded_box(box: Box, factor: float, size: Size) -> Box:
    """The box with `factor` times its area about the same centre, clipped at the image's edges."""
    scale = math.sqrt(factor)
    x, y = (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
    width, height = scale * (box.x2 - box.x1) / 2, scale * (box.y2 - box.y1) / 2
    return clamp(Box(x - width, y - height, x + width, y + height), size)


def drawn(record: Record, size: Size, seed: int, rollout: int) -> Box4:
    """A box between two corners that are drawn uniformly over the image."""
    rng = np.random.default_rng(rollout_key(seed, f"box\0{record.id}", rollout))
    (x1, x2), (y1, y2) = (sorted(rng.uniform(0, side, 2).tolist()) for side in size)
    return x1, y1, x2, y2


def _share(shares: Box4, size: Size) -> Box4:
    (x1, y1, x2, y2), (width, height) = shares, size
    return x1 * width, y1 * height, x2 * width, y2 * height


def size_of(record: Record) -> Size:
    """The size of a record's original, (0, 0) without a picture. Only the head of its file is read.
    Raises `Unusable` for a picture that cannot be opened."""
    return pictures.size(record.picture) if shows(record) else (0, 0)


def given(
    record: Record, size: Size, boxes: Sequence[Box4 | None], processor: ImageProcessor, name: str
) -> Group:
    """An episode for each box, before anyone has answered. `processor` has the budget at which the
    image is shown, and `name` says where the boxes are from."""
    shown = (0, 0)
    if shows(record):
        rows, columns = processor.grid(*pictures.shrunk(size, record.longest_side))
        shown = columns * processor.factor, rows * processor.factor
    episodes = (
        _episode(record, rollout, size, shown, box, name) for rollout, box in enumerate(boxes)
    )
    return Group(record, tuple(episodes))


def _episode(
    record: Record, rollout: int, original: Size, shown: Size, box: Box4 | None, name: str
) -> Trajectory:
    turns: tuple[Turn, ...] = ()
    end: End = "answered"
    if box is not None:
        turns, end = (Turn(0, 0, name, call=True, crop=Crop(box, box)),), "proposed"
    return Trajectory(
        record=record.id,
        rollout=rollout,
        ids=np.zeros(0, np.int32),
        sampled=np.zeros(0, bool),
        logprobs=np.zeros(0, np.float32),
        policy_logprobs=np.zeros(0, np.float32),
        original=original,
        shown=shown,
        turns=turns,
        end=end,
        answer=None,
    )
