"""Do the crops matter? One benchmark at one budget, under all conditions.

    tool over direct     what having the tool is worth
    noise, blank, other, downsampled, truth
                         every crop replaced (see `alter`): what that changes
    truth, missed        the same for `truth`, only where there are crops and all missed: of every
                         rollout that cropped the overlap is at most 0.2
    noise, needed        the same for `noise`, only where the answer is wrong without the tool,
                         and with it there are crops and the answer is right
    answer first         how many episodes with a call state their answer before it

An episode without a crop cannot change, up to its first crop it depends on nothing altered: such
questions are not asked again, and count as unchanged. `truth` leaves out records without boxes.
Of several rollouts a question is right, or has crops, if at least half of them are, or have.
Where a filter looks at the tool's own answers, "before" is what the filter made it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lfpc_jax.evaluation.alter import ALTERATIONS, applies
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.conditions import DIRECT, TOOL
from lfpc_jax.evaluation.intervals import Estimate, share
from lfpc_jax.evaluation.scoring import Paired, paired
from lfpc_jax.trajectory import Record

MISSED = 0.2
"""The highest overlap of a crop that missed its target."""
_HALF = 0.5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Diagnosis:
    """What changed; None where no question was left to compare."""

    test: str
    questions: str
    found: Paired | None


@dataclass(frozen=True)
class AnswerFirst:
    """Of the episodes with a call and an answer, the share that stated it first, its interval over
    samples; how often those and the others were right."""

    share: Estimate | None
    right_first: float | None
    right_after: float | None
    episodes: int


def to_ask(condition: str, records: Sequence[Record], tool: Sequence[Answered]) -> list[Record]:
    """The records to ask under a condition, given the answers with the tool as it is."""
    if condition not in ALTERATIONS:
        return list(records)
    cropped = {one.record.id for one in tool if one.crops}
    return [record for record in records if record.id in cropped and applies(condition, record)]


def diagnose(conditions: Mapping[str, Sequence[Answered]]) -> list[Diagnosis]:
    """`conditions` holds the answers under each that was asked."""
    tool = conditions.get(TOOL, ())
    made = []
    if direct := conditions.get(DIRECT):
        gain = paired([one.outcome for one in direct], [one.outcome for one in tool])
        made.append(Diagnosis("tool over direct", "all", gain))
    for name in ALTERATIONS:
        if name not in conditions:
            continue
        altered = conditions[name]
        made.append(_changed(name, "with boxes" if name == "truth" else "all", tool, altered))
        if name == "truth":
            missed = [one for one in tool if _missed(one)]
            which = f"cropped, overlap at most {MISSED}"
            made.append(_changed("truth, missed", which, missed, altered))
        if name == "noise" and direct:
            wrong = {one.record.id for one in direct if one.right is not None and one.right < _HALF}
            needed = [
                one
                for one in tool
                if one.record.id in wrong
                and one.right is not None
                and one.right >= _HALF
                and one.cropped >= _HALF
            ]
            which = "wrong direct, cropped, right with it"
            made.append(_changed("noise, needed", which, needed, altered))
    return made


def _missed(one: Answered) -> bool:
    """Whether there are crops, and no rollout's held the target."""
    held = [episode.overlap for episode in one.episodes if episode.crops]
    return one.cropped >= _HALF and all(
        overlap is not None and overlap <= MISSED + _ROUNDING for overlap in held
    )


def _changed(
    test: str, questions: str, tool: Sequence[Answered], altered: Sequence[Answered]
) -> Diagnosis:
    alteration = test.split(",")[0]
    again = {one.record.id: one.outcome for one in altered}
    before = [one.outcome for one in tool if applies(alteration, one.record)]
    unchanged = {one.record.id: one.outcome for one in tool if not one.crops}
    after = [found for one in before if (found := (unchanged | again).get(one.id))]
    return Diagnosis(test, questions, paired(before, after))


def answer_first(tool: Sequence[Answered]) -> AnswerFirst:
    told = [
        (stated, episode.right, one.outcome.sample)
        for one in tool
        for stated, episode in zip(one.stated, one.episodes)
        if stated is not None
    ]
    first = [right for stated, right, _ in told if stated]
    after = [right for stated, right, _ in told if not stated]
    samples = {sample for _, _, sample in told}
    stated_first = share(len(first) / len(told), len(samples)) if told else None
    return AnswerFirst(stated_first, _mean(first), _mean(after), len(told))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
