"""The results of a selection, in numbers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lfpc_jax.data.rejected import Rejected
from lfpc_jax.infogap.agreement import Answer
from lfpc_jax.infogap.selection import Selected, Settings

_MANY = 0.1
"""The share of records, or of answers, that is worth a warning."""


@dataclass(frozen=True)
class AnswerCounts:
    """Counts of the answers at a level: those that say the same as the usual answer at level 0,
    those that say something else, those that could not be compared, and missing ones."""

    same: int
    different: int
    undecided: int
    unanswered: int

    @property
    def total(self) -> int:
        return self.same + self.different + self.undecided + self.unanswered


@dataclass(frozen=True)
class Summary:
    """What a selection came to. Of `records`, `without_picture` have only text. `levels` counts the
    others by how many steps they lie below the original, `sides` by the longest side that is shown.
    `asked` counts questions, and `scan` those that a scan would have asked. `unanswered` records
    have no answer at level 0; of the other records that were asked, the share `never_diverged` kept
    their answer at every level, as far as could be told. `answers` are counted by level."""

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
    chosen = [choice for choice in selected if isinstance(choice, Selected)]
    pictured = [choice for choice in chosen if choice.sides]
    asked = [choice for choice in pictured if choice.answers]
    compared = [choice for choice in asked if not choice.unanswered]
    never = sum(not choice.diverged for choice in compared)
    return Summary(
        records=len(chosen),
        without_picture=len(chosen) - len(pictured),
        lost=dict(Counter(choice.reason for choice in selected if isinstance(choice, Rejected))),
        levels=dict(sorted(Counter(choice.level for choice in pictured).items())),
        sides=dict(sorted(Counter(choice.sides[choice.level] for choice in pictured).items())),
        never_diverged=never / len(compared) if compared else 0.0,
        unanswered=len(asked) - len(compared),
        answers=_by_level(asked),
        asked=sum(len(choice.answers) for choice in asked),
        scan=sum(len(choice.sides) for choice in asked),
    )


def _by_level(asked: Sequence[Selected]) -> dict[int, AnswerCounts]:
    by_level = {}
    for level in sorted({int(level) for choice in asked for level in choice.answers}):
        told = [
            (answer, same)
            for choice in asked
            for answer, same in zip(
                choice.answers.get(f"{level}", ()), choice.agree.get(f"{level}", ())
            )
        ]
        verdicts = Counter(same for answer, same in told if _is_answer(answer))
        none = len(told) - verdicts.total()
        by_level[level] = AnswerCounts(verdicts[True], verdicts[False], verdicts[None], none)
    return by_level


def _is_answer(answer: Answer) -> bool:
    return answer is not None and bool(answer.strip())


def unmeasured(
    summary: Summary, settings: Settings, *, image_tokens: int, judged: bool
) -> Iterator[str]:
    """A line for each thing that a selection could not measure in many records, and what to do."""
    in_full = summary.answers.get(0)
    asked = in_full.total // settings.n_answers if in_full else 0
    remedy = (
        "a model that calls a tool without having one must see prompts without it first (see "
        "`without_tool` in docs/training.md), one that is cut off needs more --turn-tokens"
    )
    if summary.unanswered > _MANY * asked:
        yield (
            f"{summary.unanswered} of {asked} records were not answered even in full, so their gap "
            f"was not measured and is the harshest: look at levels.jsonl (`unanswered`); {remedy}"
        )
    below = [counts for level, counts in summary.answers.items() if level]
    none, given = sum(counts.unanswered for counts in below), sum(counts.total for counts in below)
    if none > _MANY * given:
        yield (
            f"{none} of {given} answers at levels under the original are none, and do not count as "
            f"different: look at levels.jsonl (`answers`); {remedy}"
        )
    undecided = sum(counts.undecided for counts in below)
    told = given - none
    if undecided > _MANY * told:
        remedy = "" if judged else "; give a --judge-url, or --exact for a fixed vocabulary"
        yield (
            f"{undecided} of {told} answers could not be compared with the original's, and do not "
            f"count as different{remedy}"
        )
    whole = summary.levels.get(0, 0)
    pictured = summary.records - summary.without_picture
    if settings.strategy != "none" and whole > _MANY * pictured:
        yield (
            f"{whole} of {pictured} records have no gap: --image-tokens {image_tokens} "
            f"shows them no larger than --harshest {settings.harshest} pixels; lower that, raise "
            "the budget, or leave them out"
        )
