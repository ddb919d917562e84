"""Under which conditions questions are asked, on one engine and its compiled programs.

tool      as trained: crops come back
direct    no tool, one turn
noise, blank, other, downsampled, truth     as `tool`, but crops are altered (see `alter`)
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol, runtime_checkable

from lfpc_jax.evaluation.alter import ALTERATIONS, alteration, altered
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.trajectory import Group, Record

TOOL, DIRECT = "tool", "direct"
CONDITIONS = (TOOL, DIRECT, *ALTERATIONS)


@runtime_checkable
class Asks(Protocol):
    """What is evaluated: an engine."""

    dialogue: Dialogue
    rules: Rules

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]: ...


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
