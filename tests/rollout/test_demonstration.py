"""A demonstration is a whole episode, which ends with what the model says, or it is refused."""

import pytest

from lfpc_jax.rollout.demonstration import demonstrated
from lfpc_jax.rollout.episode import Rules
from support import small

CALL = (
    '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [2, 40, 60, 88]}}'
    "</tool_call>"
)
ANSWER = "<answer>red</answer>"


def made(turns, max_turns=3, capacity=small.SHAPES.capacity):
    rules = Rules(max_turns=max_turns)
    dialogue = small.dialogue()
    [group] = demonstrated(
        dialogue.open(small.record(0)), turns, dialogue, rules, capacity
    ).trajectories
    return group


def test_one_that_answers_is_an_episode():
    assert made([CALL, ANSWER]).end == "answered"
    assert made(["thinking"]).end == "no_action"


def test_one_that_ends_on_a_call_is_refused_whatever_ends_the_episode():
    room = len(made([CALL, ANSWER]).ids) - len(small.dialogue().tokenizer.encode(ANSWER)) - 1
    for max_turns, capacity in (
        (3, small.SHAPES.capacity),  # a further turn is missing
        (1, small.SHAPES.capacity),  # none is left
        (3, room),  # the crop does not fit
    ):
        with pytest.raises(ValueError, match="demonstration's last turn is a call"):
            made([CALL], max_turns, capacity)
    with pytest.raises(ValueError, match=r"has 2 turns, but ended \(context_full\) after 1"):
        made([CALL, ANSWER], capacity=room)
