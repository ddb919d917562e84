"""What an episode answered: one reading, whether its model was taught our tags or not."""

from types import SimpleNamespace

import pytest

from lfpc_jax.infogap.engine_answers import EngineAnswers
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.said import said
from lfpc_jax.trajectory import Picture, Record, Turn


def ended(text, end="no_action", answer=None):
    return SimpleNamespace(answer=answer, end=end, turns=(Turn(0, 1, "look"), Turn(1, 2, text)))


@pytest.mark.parametrize(
    ("text", "end", "answer", "expected"),
    [
        ("<think>A?</think><answer>B</answer>", "answered", "B", "B"),
        ("<answer></answer>", "answered", "", ""),
        ("<think>A or B?</think>\nIt is B.", "no_action", None, "It is B."),
        ("A or B?</think>It is B.", "no_action", None, "It is B."),  # opened by the template
        ("<think>It is A", "no_action", None, None),
        ("<think>It is A</think> ", "no_action", None, None),
        (" ", "no_action", None, None),
        ("It is B", "max_tokens", None, None),
        ("It is B", "context_full", None, None),
        ('<tool_call>{"name": "zoom"}</tool_call>', "max_turns", None, None),
    ],
)
def test_what_an_episode_said(text, end, answer, expected):
    assert said(ended(text, end, answer)) == expected


def test_selection_reads_it_so():
    told = [
        ended("<think>A or B?</think>\nIt is B."),
        ended("It is", end="max_tokens"),
        ended('<tool_call>{"name": "zoom"}</tool_call>', end="max_turns"),
        ended("<answer>A</answer>", end="answered", answer="A"),
    ]
    one = Record("r", "Which?", "A", Picture())
    engine = object.__new__(Engine)
    engine.stats = SimpleNamespace(skipped=[])
    engine.run = lambda questions, **_: [SimpleNamespace(record=one, trajectories=told)]
    assert EngineAnswers(engine, n_answers=4, seed=0)([one]) == [("It is B.", None, None, "A")]
