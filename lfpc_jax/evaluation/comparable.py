"""Checks that the arms of a comparison were asked and graded alike, and reports missing answers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lfpc_jax.evaluation.arms import Arm
from lfpc_jax.evaluation.journal import TARGET, Journal, Trial
from lfpc_jax.evaluation.results import check_judged, faults_of

_MOST_UNJUDGED = 0.5
"""The share of an evaluation's answers that may stay without a verdict."""
_SETTINGS = ("rollouts", "temperature", "crop_tokens", "convention", "max_turns", "turn_tokens",
        "episode_tokens", "prompt", "dtype", "image_tokens")  # fmt: skip
"""The settings of an evaluation that change answers, beside the weights and the questions."""


def asked_otherwise(arms: Sequence[Arm]) -> Iterator[str]:
    """A line for each setting in which the evaluations differ. Such a difference is as much a cause
    of different results as the weights are."""
    every = [(arm.name, _settings(folder)) for arm in arms for folder in arm.folders]
    of_targets = [name for _, asked in every for name in asked if name.startswith(TARGET)]
    for name in (*_SETTINGS, *dict.fromkeys(of_targets)):
        values: dict[str, list[str]] = {}
        for arm, asked in every:
            if name in asked:
                values.setdefault(str(asked[name]), []).append(arm)
        if len(values) > 1:
            told = "; ".join(f"{value} ({', '.join(dict.fromkeys(by))})"
                             for value, by in values.items())  # fmt: skip
            yield f"the arms were asked with another {name}: {told}"


def _settings(folder: Path) -> dict[str, Any]:
    """How an evaluation was asked, with each setting of its target by its own name."""
    asked = Journal(folder).settings()["asked"]
    target = asked.pop(TARGET, {})
    return asked | {f"{TARGET} ({part})": value for part, value in target.items()}


def check_judges(arms: Sequence[Arm]) -> None:
    by = {arm.name: sorted(set(arm.judges)) for arm in arms}
    if len({name for names in by.values() for name in names}) > 1:
        told = "; ".join(f"{name}: {', '.join(j or 'by rule' for j in by[name])}" for name in by)
        raise ValueError(
            f"the arms were graded by different judges ({told}); grade all alike with "
            "lfpc evaluate FOLDER --rescore"
        )


def unjudged(arms: Sequence[Arm]) -> Iterator[str]:
    """A line for each evaluation with answers that could not be judged. Raises if most of them
    could not."""
    for arm in arms:
        for folder, answers in zip(arm.folders, arm.answers):
            check_judged(answers, _MOST_UNJUDGED)
            every = [answered for part in answers.values() for answered in part]
            if count := sum(1 for _ in faults_of(every)):
                of = sum(len(answered.answers) for answered in every)
                yield (
                    f"{arm.name}, {folder}: {count} of {of} answers could not be judged, "
                    "which do not count"
                )


def unanswered(arms: Sequence[Arm], benchmark: str, tokens: int) -> Iterator[str]:
    """A line for each evaluation that was not finished, or that left questions out."""
    for arm in arms:
        for folder, answers in zip(arm.folders, arm.answers):
            wanted = Journal(folder).settings()["benchmarks"][benchmark]["questions"]
            answered = len(answers[Trial(benchmark, tokens, arm.condition)])
            if answered < wanted:
                yield (
                    f"{folder}: {answered} of {wanted} questions of {benchmark} at {tokens} tokens "
                    "have an answer; the others count nowhere"
                )


def budgets_of(arms: Sequence[Arm]) -> list[tuple[str, int]]:
    """The benchmarks and budgets at which every arm was asked."""
    asked = []
    for arm in arms:
        for folder in arm.folders:
            journal = Journal(folder)
            journal.settings()  # names a folder that is no evaluation's
            asked.append({(part.benchmark, part.tokens) for part in journal.parts()})
    if not (common := set.intersection(*asked)):
        raise ValueError("the arms have no benchmark and budget in common; evaluate them alike")
    return sorted(common)
