"""Accuracy as each benchmark's publishers count it.

For HR-Bench, accuracy is computed in each cycle of options, over all its rows and over each
category, and then averaged over cycles. Everything else has one cycle: the mean over samples, of
all and of each category.

An answer that could not be judged counts neither as right nor as wrong. Where answers may be partly
right (VQA accuracy, ANLS), the accuracy is the mean of their scores. Intervals count samples,
not rows: the four cycles of a sample share an image and a question, and are one observation.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from lfpc_jax.data.hr_bench import cycle_of, sample_of
from lfpc_jax.evaluation.intervals import Estimate, change, mean, share
from lfpc_jax.trajectory import Record

OVERALL = "overall"


@dataclass(frozen=True)
class Outcome:
    """A question and how far it was answered right: the mean over its rollouts, or None if that
    could not be found out. `graded` says that a single answer may be partly right."""

    id: str
    sample: str
    category: str
    cycle: str
    right: float | None
    graded: bool = False

    @classmethod
    def of(cls, record: Record, right: float | None) -> "Outcome":
        sample, cycle = sample_of(record), cycle_of(record)
        return cls(record.id, sample, record.category, cycle, right, record.graded)


def accuracies(outcomes: Sequence[Outcome]) -> dict[str, Estimate]:
    """Accuracy overall and by category. A category without any score is left out."""
    categories = sorted({outcome.category for outcome in outcomes if outcome.category})
    named = {OVERALL: list(outcomes)} | {
        category: [outcome for outcome in outcomes if outcome.category == category]
        for category in categories
    }
    if len(categories) < 2:
        named = {OVERALL: named[OVERALL]}
    estimates = {name: accuracy(group) for name, group in named.items()}
    return {name: value for name, value in estimates.items() if value is not None}


def accuracy(outcomes: Iterable[Outcome]) -> Estimate | None:
    """The mean over cycles of the mean over each cycle's rows, or over the samples if answers are
    graded."""
    cycles: dict[str, list[float]] = defaultdict(list)
    samples: dict[str, list[float]] = defaultdict(list)
    graded = False
    for outcome in outcomes:
        if outcome.right is not None:
            cycles[outcome.cycle].append(outcome.right)
            samples[outcome.sample].append(outcome.right)
            graded |= outcome.graded
    if graded:
        return mean([fmean(values) for values in samples.values()])
    if not cycles:
        return None
    return share(fmean(map(fmean, cycles.values())), len(samples))


@dataclass(frozen=True)
class Paired:
    """Two accuracies on the same questions, and the change from the first to the second, as means
    over samples."""

    before: float
    after: float
    change: Estimate
    questions: int


def paired(before: Sequence[Outcome], after: Sequence[Outcome]) -> Paired | None:
    """Over the questions that were scored both times; None if there are none."""
    then = {outcome.id: outcome.right for outcome in after}
    pairs = [
        (outcome.sample, outcome.right, second)
        for outcome in before
        if outcome.right is not None and (second := then.get(outcome.id)) is not None
    ]
    moved = change(over_samples((sample, second - first) for sample, first, second in pairs))
    if moved is None:
        return None
    return Paired(
        before=fmean(over_samples((sample, first) for sample, first, _ in pairs)),
        after=fmean(over_samples((sample, second) for sample, _, second in pairs)),
        change=moved,
        questions=len(pairs),
    )


def over_samples(values: Iterable[tuple[str, float]]) -> list[float]:
    """The mean of each sample over its rows, from pairs of a sample and a row's value."""
    rows: dict[str, list[float]] = defaultdict(list)
    for sample, value in values:
        rows[sample].append(value)
    return [fmean(values_of_rows) for values_of_rows in rows.values()]
