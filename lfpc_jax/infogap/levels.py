"""The pyramid of downsampled views, and where along it the answer is lost. Pure.

Level 0 is what the token budget shows of the original. Each next one has a longest side 1/sqrt(2)
times the one before, down to the harshest. A level diverges when the share of its answers that
agree with the majority of level 0's is under a threshold; the first that does is chosen.

`scan` asks every level. `bisect` takes it that a level below one that diverges does so as well, and
asks about log2 as many. If no level diverges, both choose the harshest and mark it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lfpc_jax.processing.geometry import Size
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.rewards.answers import match, options_by_letter
from lfpc_jax.trajectory import Record

Search = Literal["scan", "bisect"]
Answer = str | None
Answers = Mapping[int, Sequence[Answer]]
"""All that was answered, by level."""

HARSHEST = 224


@dataclass(frozen=True)
class Decision:
    level: int
    diverged: bool


def pyramid(original: Size, processor: ImageProcessor, harshest: int = HARSHEST) -> tuple[int, ...]:
    """The longest sides of all levels, descending. Only level 0 if that is not over `harshest`."""
    top = max(processor.resized_size(*original))
    sides = [top]
    while sides[-1] > harshest:
        side = round(top * 2 ** (-len(sides) / 2))
        sides.append(max(side, harshest))
    return tuple(sides)


def needed(
    answers: Answers, levels: int, search: Search, record: Record, threshold: float
) -> tuple[int, ...] | Decision:
    """The levels to ask next, or the decision that the answers allow."""
    if levels == 1:
        return Decision(0, diverged=False)
    if search == "scan":
        missing = tuple(level for level in range(levels) if level not in answers)
        if missing:
            return missing
        diverging = (
            level for level in range(1, levels) if diverges(answers, level, record, threshold)
        )
        return _decision(next(diverging, levels), levels)
    if 0 not in answers:
        return (0, levels // 2)
    agrees, lost = 0, levels
    while lost - agrees > 1:
        middle = (agrees + lost) // 2
        if middle not in answers:
            return (middle,)
        if diverges(answers, middle, record, threshold):
            lost = middle
        else:
            agrees = middle
    return _decision(lost, levels)


def _decision(first: int, levels: int) -> Decision:
    return Decision(min(first, levels - 1), diverged=first < levels)


def diverges(answers: Answers, level: int, record: Record, threshold: float) -> bool:
    usual = majority(answers[0], record)
    agreeing = sum(agree(answer, usual, record) for answer in answers[level])
    return agreeing < threshold * len(answers[level])


def majority(answers: Sequence[Answer], record: Record) -> Answer:
    """The answer that most of them agree with; of equals the first."""
    votes = [sum(agree(other, answer, record) for other in answers) for answer in answers]
    return answers[votes.index(max(votes))]


def agree(answer: Answer, other: Answer, record: Record) -> bool:
    """Whether two answers say the same, by the rules that answers are matched by."""
    said = [(text or "").strip() for text in (answer, other)]
    if not all(said):
        return not any(said)
    if not record.options:
        return match(said[0], replace(record, answer=said[1])) is True or said[0] == said[1]
    letters = [_letter(text, record) for text in said]
    return said[0] == said[1] if None in letters else letters[0] == letters[1]


def _letter(answer: str, record: Record) -> str | None:
    """The one option that the answer names."""
    named = (
        letter
        for letter in options_by_letter(record)
        if match(answer, replace(record, answer=letter)) is True
    )
    return next(named, None)
