"""Records and episodes by hand, with ids. IMAGE is the placeholder's id."""

from dataclasses import dataclass

import numpy as np

from lfpc_jax.trajectory import Crop, Picture, Record, Trajectory, Turn

IMAGE = 999


@dataclass(frozen=True)
class Said:
    """A turn of so many sampled tokens, and what came back: a crop's box and its visual tokens,
    or a fault."""

    tokens: int
    text: str = ""
    box: tuple[float, float, float, float] | None = None
    shown: int = 0
    fault: str = ""
    call: bool = False


def record(name="r", answer="A", options=("red", "blue"), targets=(), picture=None, **more):
    targets = tuple(tuple(tuple(map(float, box)) for box in nest) for nest in targets)
    picture = picture or Picture(f"{name}.png")
    return Record(name, "Which colour?", answer, picture, tuple(options), targets, **more)


def episode(*said, name="r", rollout=0, size=(100, 100), end="answered", answer="A"):
    """A prompt of 5 ids, the turns, and behind each its reply."""
    ids, sampled, turns = [1, IMAGE, IMAGE, IMAGE, 2], [False] * 5, []
    for place, one in enumerate(said):
        start = len(ids)
        ids += [7] * one.tokens
        sampled += [True] * one.tokens
        box = None if one.box is None else tuple(map(float, one.box))
        crop = None if box is None else Crop(box, box)
        called = one.call or bool(one.fault) or crop is not None
        turns.append(Turn(start, len(ids), one.text, called, crop, one.fault))
        if place + 1 < len(said):
            reply = [3, *[IMAGE] * one.shown, 4]
            ids += reply
            sampled += [False] * len(reply)
    zeros = np.zeros(len(ids), np.float32)
    return Trajectory(
        record=name,
        rollout=rollout,
        ids=np.array(ids, np.int32),
        sampled=np.array(sampled, bool),
        logprobs=zeros,
        policy_logprobs=zeros,
        original=size,
        shown=(56, 56),
        turns=tuple(turns),
        end=end,
        answer=answer,
    )
