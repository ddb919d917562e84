"""The format reward: 0 for an episode that is written as it should be, -1 for any other."""

import re

from lfpc_jax.trajectory import Trajectory

LONGEST_ANSWER = 1000
"""Answers are shorter than this many characters."""

_TAG = re.compile(r"<(/?)(think|tool_call|tool_response|answer)>")
_ENDS_TURN = "<|im_end|>"


def format_reward(trajectory: Trajectory) -> float:
    return -1.0 if format_fault(trajectory) else 0.0


def format_fault(trajectory: Trajectory) -> str:
    """What is wrong with how an episode is written; empty if nothing is.

    A refused call is no fault of format: it costs a turn and nothing else.
    """
    texts = [turn.text.removesuffix(_ENDS_TURN).rstrip() for turn in trajectory.turns]
    if not all(map(_balanced, texts)):
        return "tags do not balance"
    answers = [text.count("<answer>") for text in texts]
    if trajectory.answer is None or not trajectory.answer.strip() or not sum(answers):
        return "no answer"
    if sum(answers) > 1:
        return "more than one answer"
    if not answers[-1] or not texts[-1].endswith("</answer>"):
        return "something after the answer"
    if trajectory.turns[-1].call or "<tool_call>" in texts[-1]:
        return "answer and call in one turn"
    if len(trajectory.answer) >= LONGEST_ANSWER:
        return "answer too long"
    return ""


def tool_reward(trajectory: Trajectory) -> float:
    """1 when at least one crop came back."""
    return float(any(turn.crop is not None for turn in trajectory.turns))


def _balanced(text: str) -> bool:
    """Whether every tag of a turn is closed in that turn, the inner ones first."""
    opened: list[str] = []
    for closes, name in _TAG.findall(text):
        if not closes:
            opened.append(name)
        elif not opened or opened.pop() != name:
            return False
    return not opened
