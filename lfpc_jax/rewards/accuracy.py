"""Grades answers: by their record's metric, or by rule and then by the judge if there is one."""

from collections.abc import Sequence

from lfpc_jax.rewards import graded
from lfpc_jax.rewards.answers import match, options_by_letter, right_letter
from lfpc_jax.rewards.judge import Claim, Judges
from lfpc_jax.rewards.verdict import Fault, Verdict
from lfpc_jax.trajectory import Record


def grade(answers: Sequence[tuple[str | None, Record]], judge: Judges | None) -> list[Verdict]:
    """The verdict on each answer. Without a judge, an answer that the rules cannot tell is wrong.

    If a record's reference makes no sense, or the judge fails, the verdict is a fault.
    """
    verdicts: list[Verdict] = []
    open_claims: dict[int, Claim] = {}
    for index, (answer, record) in enumerate(answers):
        try:
            if record.graded:
                score = graded.score(answer, record)
                verdicts.append(Verdict(score > 0, score=score))
                continue
            right = match(answer, record)
        except ValueError as error:
            verdicts.append(Verdict(None, Fault("record", str(error))))
            continue
        if right is None and judge and answer is not None:
            open_claims[index] = _claim(answer, record)
        verdicts.append(Verdict(right is True, undecided=right is None))
    if judge:
        for index, verdict in zip(open_claims, judge.verdicts(list(open_claims.values()))):
            verdicts[index] = verdict
    return verdicts


def _claim(answer: str, record: Record) -> Claim:
    if not record.options:
        return Claim(record.question, record.answer, answer)
    options = options_by_letter(record)
    lines = [f"{letter}. {text}" for letter, text in options.items()]
    right = right_letter(record)
    return Claim("\n".join([record.question, *lines]), f"{right}. {options[right]}", answer)
