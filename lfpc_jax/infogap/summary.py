"""What a selection came to, in numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lfpc_jax.data.rejected import Rejected
from lfpc_jax.infogap.agreement import Answer
from lfpc_jax.infogap.selection import Selected


@dataclass(frozen=True)
class AnswerCounts:
    """Answers at a level: those that say what the usual one at level 0 says, those that say
    something else, those that could not be compared, and those that are none."""

    same: int
    different: int
    undecided: int
    unanswered: int

    @property
    def total(self) -> int:
        return self.same + self.different + self.undecided + self.unanswered


@dataclass(frozen=True)
class Summary:
    """Of `records`, `without_picture` are questions in text alone. `levels` counts the others by
    how many steps they are under the original, `sides` by the longest side shown; `asked` counts
    questions, `scan` those that a scan would have asked. `unanswered` records have no answer at
    level 0; of the others that were asked the share `never_diverged` kept their answer, as far as
    could be told. `answers` are of all levels."""

    records: int
    without_picture: int
    lost: dict[str, int]
    levels: dict[int, int]
    sides: dict[int, int]
    never_diverged: float
    unanswered: int
    answers: dict[int, AnswerCounts]
    asked: int
    scan: int


def summarise(selected: Sequence[Selected | Rejected]) -> Summary:
    chosen = [one for one in selected if isinstance(one, Selected)]
    shown = [one for one in chosen if one.sides]
    asked = [one for one in shown if one.answers]
    compared = [one for one in asked if not one.unanswered]
    never = sum(not one.diverged for one in compared)
    return Summary(
        records=len(chosen),
        without_picture=len(chosen) - len(shown),
        lost=dict(Counter(one.reason for one in selected if isinstance(one, Rejected))),
        levels=dict(sorted(Counter(one.level for one in shown).items())),
        sides=dict(sorted(Counter(one.sides[one.level] for one in shown).items())),
        never_diverged=never / len(compared) if compared else 0.0,
        unanswered=len(asked) - len(compared),
        answers=_by_level(asked),
        asked=sum(len(one.answers) for one in asked),
        scan=sum(len(one.sides) for one in asked),
    )


def _by_level(asked: Sequence[Selected]) -> dict[int, AnswerCounts]:
    found = {}
    for level in sorted({int(level) for one in asked for level in one.answers}):
        told = [
            (answer, same)
            for one in asked
            for answer, same in zip(one.answers.get(f"{level}", ()), one.agree.get(f"{level}", ()))
        ]
        verdicts = Counter(same for answer, same in told if _is_answer(answer))
        none = len(told) - verdicts.total()
        found[level] = AnswerCounts(verdicts[True], verdicts[False], verdicts[None], none)
    return found


def _is_answer(answer: Answer) -> bool:
    return answer is not None and bool(answer.strip())
