"""What a run of the engine keeps of records whose episodes have begun, or are about to."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from lfpc_jax.rollout.dialogue import Dialogue, Opening
from lfpc_jax.rollout.episode import Episode
from lfpc_jax.rollout.items import Visual
from lfpc_jax.rollout.slots import Slots
from lfpc_jax.rollout.tools import Ready
from lfpc_jax.trajectory import Group


class Ended(NamedTuple):
    """A group whose episodes have all ended; `altered` names what replaced its crops, if it did."""

    seed: int
    altered: str
    group: Group


@dataclass(eq=False)
class Pending:
    """A record's episodes, those that have not begun included, and its altered ones. An altered
    episode is the unaltered one until that has made its first call."""

    opening: Opening
    visual: Visual | None
    episodes: list[Episode]
    seed: int
    name: str = ""
    altered: "list[AlteredGroup]" = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return all(episode.end is not None for episode in self.episodes)


@dataclass(eq=False)
class AlteredGroup(Pending):
    dialogue: Dialogue = field(kw_only=True)


@dataclass(frozen=True)
class Resumed:
    """An episode that goes on from its first call, `request`, once its row is free for it."""

    episode: Episode
    request: Ready
    length: int  # of the row then


@dataclass(eq=False)
class PromptInMemory:
    """A prompt that is prefilled once, and the episodes that begin from it. It is in memory, in
    `row`, until all of them have ended."""

    group: Pending
    waiting: deque[Episode]
    row: int | None = None
    running: int = 0

    def bucket(self, slots: Slots) -> tuple[int, int]:
        return slots.prompt_buckets(len(self.group.opening.ids), self.group.visual)
