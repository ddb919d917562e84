"""The pyramid of downsampled views, and where along it the answer is lost. Pure.

Level 0 is what the token budget shows of the original. Each next one has a longest side 1/sqrt(2)
times the one before, down to the harshest.

Answers are compared with the usual one at level 0: of the answers there the one that most of them
surely agree with, of equals the first. Of `n` answers at a level those that surely disagree with it
are `no`, and the level diverges if `n - no < threshold * n`. Only a sure no counts: what cannot be
told, and an answer that is missing, never make a level diverge. The first level that diverges is
chosen.

`scan` asks every level. `bisect` takes it that a level below one that diverges does so as well, and
asks about log2 as many. If no level diverges, both choose the harshest and mark it. A record
without any answer at level 0 has nothing to compare with, so its gap is not measured: it gets the
harshest, too, and is marked as unanswered.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lfpc_jax.infogap.agreement import Answer, Same
from lfpc_jax.processing.geometry import Size
from lfpc_jax.processing.images import ImageProcessor

Search = Literal["scan", "bisect"]
Answers = Mapping[int, Sequence[Answer]]
"""All that was answered, by level."""

HARSHEST = 224


@dataclass(frozen=True)
class Decision:
    level: int
    diverged: bool
    unanswered: bool = False


def pyramid(original: Size, processor: ImageProcessor, harshest: int = HARSHEST) -> tuple[int, ...]:
    """The longest sides of all levels, descending. Only level 0 if that is not over `harshest`."""
    top = max(processor.resized_size(*original))
    sides = [top]
    while sides[-1] > harshest:
        side = round(top * 2 ** (-len(sides) / 2))
        sides.append(max(side, harshest))
    return tuple(sides)


def needed(
    answers: Answers, levels: int, search: Search, same: Same, threshold: float
) -> tuple[int, ...] | Decision:
    """The levels to ask next, or the decision that the answers allow."""
    if levels == 1:
        return Decision(0, diverged=False)
    if search == "scan" and (missing := tuple(n for n in range(levels) if n not in answers)):
        return missing
    if 0 not in answers:
        return (0, levels // 2)
    if usual(answers[0], same) is None:
        return Decision(levels - 1, diverged=False, unanswered=True)
    if search == "scan":
        diverging = (n for n in range(1, levels) if diverges(answers, n, same, threshold))
        return _decision(next(diverging, levels), levels)
    agrees, lost = 0, levels
    while lost - agrees > 1:
        middle = (agrees + lost) // 2
        if middle not in answers:
            return (middle,)
        if diverges(answers, middle, same, threshold):
            lost = middle
        else:
            agrees = middle
    return _decision(lost, levels)


def _decision(first: int, levels: int) -> Decision:
    return Decision(min(first, levels - 1), diverged=first < levels)


def diverges(answers: Answers, level: int, same: Same, threshold: float) -> bool:
    verdicts = compared(answers, same)[level]
    return len(verdicts) - verdicts.count(False) < threshold * len(verdicts)


def compared(answers: Answers, same: Same) -> dict[int, tuple[bool | None, ...]]:
    """Of every answer whether it says what the usual one at level 0 says."""
    first = usual(answers[0], same)
    return {level: tuple(same(one, first) for one in given) for level, given in answers.items()}


def usual(answers: Sequence[Answer], same: Same) -> Answer:
    """The answer that most of them agree with; of equals the first. None if nobody answers."""
    given = [one for one in answers if one is not None and one.strip()]
    votes = [sum(same(other, one) is True for other in given) for one in given]
    return given[votes.index(max(votes))] if given else None


def pairs_at_first(answers: Answers) -> Iterator[tuple[Answer, Answer]]:
    """What `usual` compares."""
    return itertools.combinations(dict.fromkeys(answers.get(0, ())), 2)


def pairs_with_usual(answers: Answers, same: Same) -> Iterator[tuple[Answer, Answer]]:
    """What `compared` compares."""
    first = usual(answers.get(0, ()), same)
    others = dict.fromkeys(one for given in answers.values() for one in given)
    return ((first, other) for other in others if first is not None)
