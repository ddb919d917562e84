"""Tests whether crops matter, on one benchmark at one budget, under all conditions.

    tool over direct     the change in accuracy from having the tool
    noise, blank, other, downsampled, truth
                         the change in accuracy if every crop is replaced (see `alter`)
    truth, missed        the same for `truth`, only for questions with crops that all missed: in
                         every rollout that cropped, the overlap is at most 0.2
    noise, needed        the same for `noise`, only for questions whose answer is wrong without the
                         tool and is right, with crops, with the tool
    answer first         how many episodes with a call state their answer before it
    X over direct        the change from showing a target model boxes of the kind X (true, centre,
                         ...; see `conditions`) instead of no crop
    tool over X          the change from boxes of that kind to those that the crop network proposes

Nothing is altered before an episode's first crop, so an episode without a crop cannot change: such
questions are not asked again and count as unchanged. `truth` leaves out records without boxes. With
several rollouts, a question is right (or has crops) if at least half of its rollouts are (or do).
"noise, needed" selects questions that are right with the tool, so there the accuracy before the
change follows from the selection and is no measurement.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lfpc_jax.evaluation.alter import ALTERATIONS, applies
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.conditions import DIRECT, TOOL, factor_of, of_boxes, ordered, suits
from lfpc_jax.evaluation.intervals import Estimate, share
from lfpc_jax.evaluation.scoring import Paired, paired
from lfpc_jax.trajectory import Record

MISSED = 0.2
"""The highest overlap of a crop that missed its target."""
_HALF = 0.5
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Diagnosis:
    """The change that a test found; None if no question was left to compare."""

    test: str
    questions: str
    found: Paired | None


@dataclass(frozen=True)
class AnswerFirst:
    """Of the `episodes` that have a call and an answer: the share that stated the answer first,
    with its interval over samples, and how often those and the others were right."""

    share: Estimate | None
    right_first: float | None
    right_after: float | None
    episodes: int


def to_ask(condition: str, records: Sequence[Record], tool: Sequence[Answered]) -> list[Record]:
    """The records to ask under a condition, given the answers with the unaltered tool."""
    if condition not in ALTERATIONS:
        return [record for record in records if suits(condition, record)]
    cropped = {answered.record.id for answered in tool if answered.crops}
    return [record for record in records if record.id in cropped and applies(condition, record)]


def diagnose(conditions: Mapping[str, Sequence[Answered]]) -> list[Diagnosis]:
    """All tests; `conditions` holds the answers under each condition that was asked."""
    tool = conditions.get(TOOL, ())
    diagnoses = []
    if (direct := conditions.get(DIRECT)) and (tool or not any(map(of_boxes, conditions))):
        gain = paired(
            [answered.outcome for answered in direct], [answered.outcome for answered in tool]
        )
        diagnoses.append(Diagnosis("tool over direct", "all", gain))
    diagnoses += _boxes_compared(conditions)
    for name in ALTERATIONS:
        if name not in conditions:
            continue
        altered = conditions[name]
        diagnoses.append(_changed(name, "with boxes" if name == "truth" else "all", tool, altered))
        if name == "truth":
            missed = [answered for answered in tool if _missed(answered)]
            which = f"cropped, overlap at most {MISSED}"
            diagnoses.append(_changed("truth, missed", which, missed, altered))
        if name == "noise" and direct:
            wrong = {
                answered.record.id
                for answered in direct
                if answered.right is not None and answered.right < _HALF
            }
            needed = [
                answered
                for answered in tool
                if answered.record.id in wrong
                and answered.right is not None
                and answered.right >= _HALF
                and answered.cropped >= _HALF
            ]
            which = "wrong direct, cropped, right with it"
            diagnoses.append(_changed("noise, needed", which, needed, altered))
    return diagnoses


def _boxes_compared(conditions: Mapping[str, Sequence[Answered]]) -> Iterator[Diagnosis]:
    """Boxes that no crop network proposed beside no crop, and predicted boxes beside them."""
    of_each = {
        name: [answered.outcome for answered in answers] for name, answers in conditions.items()
    }
    for name in filter(of_boxes, ordered(conditions)):
        which = "with boxes" if factor_of(name) is not None else "all"
        if direct := of_each.get(DIRECT):
            yield Diagnosis(f"{name} over direct", which, paired(direct, of_each[name]))
        if tool := of_each.get(TOOL):
            yield Diagnosis(f"tool over {name}", which, paired(of_each[name], tool))


def _missed(answered: Answered) -> bool:
    """Whether there are crops, none of which held the target."""
    held = [episode.overlap for episode in answered.episodes if episode.crops]
    return answered.cropped >= _HALF and all(
        overlap is not None and overlap <= MISSED + _ROUNDING for overlap in held
    )


def _changed(
    test: str, questions: str, tool: Sequence[Answered], altered: Sequence[Answered]
) -> Diagnosis:
    alteration = test.split(",")[0]
    again = {answered.record.id: answered.outcome for answered in altered}
    before = [answered.outcome for answered in tool if applies(alteration, answered.record)]
    unchanged = {answered.record.id: answered.outcome for answered in tool if not answered.crops}
    after = [outcome for answered in before if (outcome := (unchanged | again).get(answered.id))]
    return Diagnosis(test, questions, paired(before, after))


def answer_first(tool: Sequence[Answered]) -> AnswerFirst:
    told = [
        (stated, episode.right, answered.outcome.sample)
        for answered in tool
        for stated, episode in zip(answered.stated, answered.episodes)
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
