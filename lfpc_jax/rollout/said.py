"""What an episode answered, for all rooms that count or compare answers.

Only the training reward is stricter: it accepts nothing but a tagged answer.
"""

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from lfpc_jax.trajectory import End, Trajectory, Turn

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_THOUGHT_END = "</think>"
_OF_ANSWERS = ("", "answer_and_call")
"""Faults of a turn that answers."""


@runtime_checkable
class EndedEpisode(Protocol):
    """A trajectory, or an episode that has ended."""

    @property
    def answer(self) -> str | None: ...
    @property
    def end(self) -> End | None: ...
    @property
    def turns(self) -> Sequence[Turn]: ...


def said(episode: EndedEpisode) -> str | None:
    """The answer of an episode, or None if it has none. A model that was never taught the tags
    answers without them: its answer is then all that it wrote in its last turn, except for its
    thoughts, whether their tag is closed or not. An untagged episode that was cut off, or that
    ended on a call, has no answer. A crop network's episode has the answer of its target or none;
    the text of its box is never taken for one."""
    if episode.answer is not None:
        return episode.answer
    if episode.end != "no_action" or not episode.turns:
        return None
    return untagged(episode.turns[-1].text) or None


def untagged(written: str) -> str:
    """What is written without tags: all but the thoughts, whether their tag is closed or not."""
    return _THOUGHT.sub("", written).rpartition(_THOUGHT_END)[2].strip()


def by_target(trajectory: Trajectory) -> bool:
    """Whether a target model answers an episode, or was to answer it: it is a crop network's, or
    its box was given. All that the models of other episodes answer is in their last turn."""
    if trajectory.end == "proposed" or trajectory.likelihood is not None or trajectory.unanswered:
        return True
    if trajectory.answer is None:
        return False
    last = trajectory.turns[-1] if trajectory.turns else None
    return last is None or last.fault not in _OF_ANSWERS or "<answer>" not in last.text
