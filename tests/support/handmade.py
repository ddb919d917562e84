"""Records and episodes by hand."""

import numpy as np

from lfpc_jax.trajectory import Crop, Picture, Record, Trajectory, Turn

CALL = '<tool_call>{"name": "image_zoom_in_tool"}</tool_call>'


def record(answer="A", options=("red", "blue"), question="What color is the bag?", targets=()):
    targets = tuple(tuple(tuple(map(float, box)) for box in boxes) for boxes in targets)
    return Record("r", question, answer, Picture("x.png"), tuple(options), targets)


def crop_turn(*box):
    box = tuple(map(float, box))
    return Turn(0, 0, f"<think>look</think>{CALL}", call=True, crop=Crop(box, box))


def refused_turn():
    return Turn(0, 0, CALL, call=True, fault="empty box")


def answer_turn(answer):
    return Turn(0, 0, f"<think>seen</think><answer>{answer}</answer>")


def episode(*turns, answer=None, size=(100, 100), rollout=0, name="r"):
    nothing = np.zeros(0)
    if answer is not None:
        turns = (*turns, answer_turn(answer))
    return Trajectory(
        record=name,
        rollout=rollout,
        ids=nothing,
        sampled=nothing,
        logprobs=nothing,
        policy_logprobs=nothing,
        original=size,
        shown=(28, 28),
        turns=tuple(turns),
        end="answered" if answer is not None else "no_action",
        answer=answer,
    )
