"""Under which conditions questions are asked, on one engine and its compiled programs.

tool      as trained: crops come back
direct    no tool, one turn
noise, blank, other, downsampled, truth     as `tool`, but crops are altered (see `alter`)

Of a crop network and its target model, `tool` shows the target the box that the network proposes,
and `direct` shows it no crop. Boxes that no network proposed are further conditions:

true               the record's target boxes; of several the smallest box around all
true_x4            the same with four times the area (see `cropvlm.boxes`), also for other factors
centre             the middle half of each side
random             drawn for each record
whole              the whole image
rel_att            ViCrop's box from the target model's attention (see `cropvlm.vicrop`)
rel_att_22         the same from another layer
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol, runtime_checkable

from lfpc_jax.evaluation.alter import ALTERATIONS, alteration, altered, shows
from lfpc_jax.rollout.asked import Alters
from lfpc_jax.rollout.dialogue import Dialogue
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.tools import Toolbox
from lfpc_jax.trajectory import Group, Record

TOOL, DIRECT = "tool", "direct"
TRUE, CENTRE, RANDOM, WHOLE, REL_ATT = "true", "centre", "random", "whole", "rel_att"
BOXES = (TRUE, CENTRE, RANDOM, WHOLE, REL_ATT)
"""Boxes that no crop network proposes."""
CONDITIONS = (TOOL, DIRECT, *ALTERATIONS)
"""The conditions of a model with a tool."""

_TIMES = f"{TRUE}_x"
_LAYER = f"{REL_ATT}_"
_FACTORS = (0.01, 1e4)

Stored = Callable[[], Mapping[str, Group]]
"""The groups that were stored under `tool`, by record."""


@runtime_checkable
class Runs(Protocol):
    """Rolls out records, as an engine does."""

    def run(self, records: Iterable[Record], *, rollouts: int, seed: int) -> Iterator[Group]: ...


@runtime_checkable
class RunsAltered(Protocol):
    """Rolls out records with crops as they are and, from each episode's first call on, with altered
    ones, as an engine does; see `Engine.run_altered`."""

    def run_altered(
        self, records: Iterable[Record], alters: Alters, *, rollouts: int, seed: int
    ) -> Iterator[tuple[str, Group]]: ...


@runtime_checkable
class Asks(Runs, Protocol):
    """A model that is evaluated: an engine."""

    dialogue: Dialogue
    rules: Rules


@runtime_checkable
class AsksTarget(Protocol):
    """A target model that is evaluated, with boxes of every kind. It puts itself under a condition,
    and gives what is then run."""

    def under(
        self, condition: str, records: Sequence[Record], stored: Stored, *, seed: int
    ) -> AbstractContextManager[Runs]: ...


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


def is_altered(condition: str) -> bool:
    return condition in ALTERATIONS


def expanded(factor: float) -> str:
    """The condition of true boxes with their area times a factor; times 1 they are `true`."""
    least, most = _FACTORS
    if not least <= factor <= most:
        raise ValueError(
            f"an area factor of {factor:g}: true boxes may be scaled by {least:g} to {most:g}"
        )
    written = f"{factor:.4f}".rstrip("0").rstrip(".")
    return TRUE if written == "1" else f"{_TIMES}{written}"


def factor_of(condition: str) -> float | None:
    """The area factor of a condition that shows true boxes; None for others."""
    if condition == TRUE:
        return 1.0
    return float(condition[len(_TIMES) :]) if condition.startswith(_TIMES) else None


def attended(layer: int) -> str:
    """The condition of ViCrop's boxes by the attention of a layer."""
    return f"{_LAYER}{layer}"


def layer_of(condition: str) -> int | None:
    """The layer of a condition that shows ViCrop's boxes; None for others."""
    return int(condition[len(_LAYER) :]) if condition.startswith(_LAYER) else None


def of_boxes(condition: str) -> bool:
    """Whether it shows boxes that no crop network proposed."""
    return condition.startswith((_TIMES, _LAYER)) or condition in BOXES


def suits(condition: str, record: Record) -> bool:
    """Whether a record has what an unaltered condition needs."""
    if factor_of(condition) is not None:
        return shows(record) and bool(record.targets)
    return shows(record) or not of_boxes(condition)


def ordered(conditions: Iterable[str]) -> list[str]:
    """Conditions as results list them: those of a model with a tool, then boxes by their kind, true
    ones by their factor."""
    places = {name: place for place, name in enumerate((*CONDITIONS, *BOXES))}

    def key(condition: str) -> tuple[int, float, str]:
        if (factor := factor_of(condition)) is not None:
            return places[TRUE], factor, condition
        if (layer := layer_of(condition)) is not None:
            return places[REL_ATT], float(layer), condition
        return places.get(condition, len(places)), 0.0, condition

    return sorted(set(conditions), key=key)
