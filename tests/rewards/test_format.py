import pytest

from lfpc_jax.rewards.format import format_fault, format_reward, tool_reward
from lfpc_jax.trajectory import Turn
from support.handmade import CALL, answer_turn, crop_turn, episode, refused_turn

LOOK = f"<think>look</think>{CALL}"


def written(*texts, answer="A", calls=()):
    turns = [Turn(0, 0, text, call=index in calls) for index, text in enumerate(texts)]
    found = episode(*turns)
    return type(found)(**{**found.__dict__, "answer": answer})


WELL = [
    written("<answer>A</answer>"),
    written("<answer>A</answer>\n "),
    written("<answer>A</answer><|im_end|>"),
    written("<answer>A</answer>\n<|im_end|>"),
    written("<think>so</think><answer>A</answer>"),
    written("<think>so</think> Well: <answer>A</answer>"),
    written("I say <answer>\nA\n</answer>"),
    written(LOOK, "<answer>A</answer>", calls=(0,)),
    written(LOOK, LOOK, LOOK, LOOK, "<answer>A</answer>", calls=(0, 1, 2, 3)),
    written(CALL + "<|im_end|>", "<answer>A</answer>", calls=(0,)),
    written("<answer>" + "a" * 999 + "</answer>", answer="a" * 999),
    written("1 < 2 and <b>bold</b> <answer>A</answer>"),
    episode(refused_turn(), answer="A"),  # a refused call costs a turn and nothing else
]
BADLY = [
    ("no answer", episode()),
    ("no answer", episode(crop_turn(0, 0, 50, 50))),
    ("no answer", written("A", answer=None)),
    ("no answer", written("<answer></answer>", answer="")),
    ("no answer", written("<answer> \n</answer>", answer=" \n")),
    ("no answer", written("<think>long</think>", answer=None)),
    ("no answer", written("<Answer>A</Answer>")),
    ("balance", written("<answer>A")),
    ("balance", written("A</answer>")),
    ("balance", written("<think>so<answer>A</answer>")),
    ("balance", written("so</think><answer>A</answer>")),
    ("balance", written("<think>so<answer>A</think></answer>")),
    ("balance", written("</think><think><answer>A</answer>")),
    ("balance", written("<tool_call>{}", "<answer>A</answer>", calls=(0,))),
    ("balance", written("<think>so", "</think><answer>A</answer>")),
    ("balance", written("<tool_response><answer>A</answer>")),
    ("more than one", written("<answer>A</answer><answer>A</answer>")),
    ("more than one", written("<answer>A</answer>", "<answer>A</answer>")),
    ("more than one", written("<answer><answer>A</answer></answer>")),
    ("after the answer", written("<answer>A</answer> I am sure.")),
    ("after the answer", written("<answer>A</answer><think>so</think>")),
    ("after the answer", written("<think><answer>A</answer></think>")),
    ("after the answer", written("<answer>A</answer>" + CALL, calls=(0,))),
    ("after the answer", written("<answer>A</answer>", "I am sure.")),
    ("one turn", written(CALL + "<answer>A</answer>", calls=(0,))),
    ("one turn", written(CALL + "<answer>A</answer>")),
    ("one turn", written("<answer>A</answer>", calls=(0,))),
    ("too long", written("<answer>" + "a" * 1000 + "</answer>", answer="a" * 1000)),
]


@pytest.mark.parametrize("trajectory", WELL)
def test_well_written(trajectory):
    assert format_fault(trajectory) == ""
    assert format_reward(trajectory) == 0


@pytest.mark.parametrize(("fault", "trajectory"), BADLY)
def test_badly_written(fault, trajectory):
    assert fault in format_fault(trajectory)
    assert format_reward(trajectory) == -1


@pytest.mark.parametrize(
    ("expected", "turns"),
    [
        (0, ()),
        (0, (answer_turn("A"),)),
        (0, (refused_turn(), answer_turn("A"))),
        (1, (crop_turn(0, 0, 9, 9), answer_turn("A"))),
        (1, (refused_turn(), crop_turn(0, 0, 9, 9))),
        (1, (crop_turn(0, 0, 9, 9), refused_turn())),
        (1, (crop_turn(0, 0, 9, 9), crop_turn(0, 0, 9, 9))),
    ],
)
def test_a_tool_that_answered(expected, turns):
    assert tool_reward(episode(*turns)) == expected
