"""How long the prompts of a set are, and the settings that hold them, before anything compiles."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from lfpc_jax.data.rejected import Unusable
from lfpc_jax.rollout.dialogue import Dialogue, question
from lfpc_jax.run.config import RolloutSettings, TrainConfig
from lfpc_jax.trajectory import Record

_MOST = 128
"""Lengths that are kept of a set."""
_TEXT_UNIT = 64
"""Buckets that are proposed for prompts are multiples of this."""


@dataclass
class PromptLengths:
    """The text tokens of a set's prompts: `spread` has those of at most 128 records from all over
    it, `longest` and `name` belong to the longest prompt that was measured.

    Records are added one after another, and how many will come is not known. Every so many-th is
    measured, more seldom the more there are, and any whose question is longer than all before.
    Records that cannot become prompts are left to the engine, which names them."""

    dialogue: Dialogue
    spread: list[int] = field(default_factory=list)
    longest: int = 0
    name: str = ""
    _every: int = 1
    _seen: int = 0
    _most_written: int = 0

    def add(self, record: Record) -> None:
        in_turn = self._seen % self._every == 0
        self._seen += 1
        written = len(question(record))
        if not in_turn and written <= self._most_written:
            return
        self._most_written = max(self._most_written, written)
        with suppress(Unusable, ValueError):
            _, text = self.dialogue.size(record)
            if text > self.longest:
                self.longest, self.name = text, record.id
            if in_turn:
                self._keep(text)

    def _keep(self, text: int) -> None:
        self.spread.append(text)
        if len(self.spread) > _MOST:
            self.spread = self.spread[::2]
            self._every *= 2

    def over(self, settings: RolloutSettings) -> float:
        """The share of the spread that has more text than the largest bucket."""
        most = max(settings.prompt_text)
        return sum(text > most for text in self.spread) / max(1, len(self.spread))

    def told(self, source: str, settings: RolloutSettings) -> str:
        """That prompts are too long, and what would hold them; empty if all measured ones fit."""
        if self.longest <= max(settings.prompt_text):
            return ""
        share = self.over(settings)
        how_many = f"{share:.1%} of its prompts are" if share else "a few of its prompts are"
        return (
            f"{source}: {how_many} longer than the largest bucket of rollout.prompt_text "
            f"{settings.prompt_text} and would be skipped; the longest, {self.name}, has "
            f"{self.longest} text tokens. All that were measured fit with "
            f"{flags_for(self.longest, settings)}"
        )


MeasuredSet = tuple[str, float, PromptLengths]
"""The name of a set, its weight, and its prompts."""


def check_fits(config: TrainConfig, sets: Sequence[MeasuredSet]) -> None:
    """Raises ValueError if so many prompts of the training sets are too long that a run would stop
    for them. Imitation has no buckets for prompts."""
    if config.stage != "grpo" or not sets:
        return
    over = [lengths.over(config.rollout) for _, _, lengths in sets]
    weights = [weight for _, weight, _ in sets]
    share = sum(w * each for w, each in zip(weights, over, strict=True)) / sum(weights)
    if share == 1 or share > config.health.most_skipped:
        name, _, lengths = sets[over.index(max(over))]
        raise ValueError(lengths.told(name, config.rollout))


def flags_for(longest: int, settings: RolloutSettings) -> str:
    """The flags with which prompts of up to `longest` text tokens fit."""
    text = -(-longest // _TEXT_UNIT) * _TEXT_UNIT
    flags = f"--rollout.prompt_text {','.join(map(str, (*settings.prompt_text, text)))}"
    if settings.image_tokens + text > settings.capacity:
        flags += f" --rollout.capacity {settings.capacity + text - settings.prompt_text[-1]}"
    return flags
