"""The pyramid of downsampled views, and where along it the answer is lost. Pure.

Level 0 is what the token budget shows of the original. Each next one has a longest side 1/sqrt(2)
times the one before, down to the harshest.

Answers are compared with the usual answer at level 0: the one that most answers there surely agree
with, and among equals the first. If `no` of a level's `n` answers surely disagree with it, the
level diverges if `n - no < threshold * n`. Only a sure disagreement counts: an answer that cannot
be compared, or that is missing, never makes a level diverge. The first level that diverges is
chosen.

`scan` asks every level. `bisect` assumes that all levels below one that diverges diverge as well,
and asks about log2 as many. If no level diverges, both choose the harshest level and mark the
record. A record without any answer at level 0 has nothing to compare with, so its gap is not
measured: it gets the harshest level, too, and is marked as unanswered.
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
    """The longest sides of all levels, descending. There is only level 0 if its side is at most
    `harshest`."""
    top = max(processor.resized_size(*original))
    sides = [top]
    while sides[-1] > harshest:
        side = round(top * 2 ** (-len(sides) / 2))
        sides.append(max(side, harshest))
    return tuple(sides)


def needed(
    answers: Answers, levels: int, search: Search, same: Same, threshold: float
) -> tuple[int, ...] | Decision:
    """The levels to ask next, or the decision if the answers suffice for one."""
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
    """For every answer, whether it says the same as the usual answer at level 0."""
    first = usual(answers[0], same)
    return {
        level: tuple(same(answer, first) for answer in given) for level, given in answers.items()
    }


def usual(answers: Sequence[Answer], same: Same) -> Answer:
    """The answer that most others agree with, among equals the first; None without any."""
    given = [answer for answer in answers if answer is not None and answer.strip()]
    votes = [sum(same(other, answer) is True for other in given) for answer in given]
    return given[votes.index(max(votes))] if given else None


def pairs_at_first(answers: Answers) -> Iterator[tuple[Answer, Answer]]:
    """The pairs of answers that `usual` compares."""
    return itertools.combinations(dict.fromkeys(answers.get(0, ())), 2)


def pairs_with_usual(answers: Answers, same: Same) -> Iterator[tuple[Answer, Answer]]:
    """The pairs of answers that `compared` compares."""
    first = usual(answers.get(0, ()), same)
    others = dict.fromkeys(answer for given in answers.values() for answer in given)
    return ((first, other) for other in others if first is not None)
