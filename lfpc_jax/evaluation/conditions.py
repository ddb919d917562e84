"""Under which conditions questions are asked, on one engine and its compiled programs.

tool      as trained: crops come back
direct    no tool, one turn
noise, blank, other, downsampled, truth     as `tool`, but crops are altered (see `alter`)
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, runtime_checkable

from lfpc_jax.evaluation.alter import ALTERATIONS, alteration, altered
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.engine import Rolled
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.trajectory import Record, Trajectory

TOOL, DIRECT = "tool", "direct"
CONDITIONS = (TOOL, DIRECT, *ALTERATIONS)

_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


@runtime_checkable
class Asks(Protocol):
    """What is evaluated: an engine."""

    dialogue: Dialogue
    rules: Rules

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Rolled]: ...


@contextmanager
def under(engine: Asks, condition: str, records: Sequence[Record], *, seed: int) -> Iterator[None]:
    """Puts the engine under a condition, for the runs in the block; `records` are those that the
    alteration `other` may show."""
    if condition == TOOL:
        yield
    elif condition == DIRECT:
        before = engine.dialogue, engine.rules
        engine.dialogue = without_tool(engine.dialogue)
        engine.rules = replace(engine.rules, max_turns=1)
        try:
            yield
        finally:
            engine.dialogue, engine.rules = before
    else:
        with altered(engine, alteration(condition, records, seed=seed)):
            yield


def without_tool(dialogue: Dialogue) -> Dialogue:
    return replace(dialogue, toolbox=Toolbox(()))


def said(trajectory: Trajectory) -> str | None:
    """What an episode answered. A model that was never taught our tags answers without them: then
    it is all that it wrote in its last turn, but for its thoughts. An episode that was cut off, or
    ended on a call, has no answer."""
    if trajectory.answer is not None:
        return trajectory.answer
    if trajectory.end != "no_action" or not trajectory.turns:
        return None
    return _THOUGHT.sub("", trajectory.turns[-1].text).strip() or None
