"""Several models on the same questions: arms of a comparison, each evaluated once for every seed.

Every measure is made by question, as the mean over a question's rollouts and an arm's seeds, and so
is the change between two arms; then each sample is the mean over its questions. Their 95% intervals
count samples, as `evaluate.py` counts them: the four cycles of an HR-Bench sample are one. Seeds
are too few for an interval of their own: each seed's value stands beside.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

from lfpc_jax.data.hr_bench import sample_of
from lfpc_jax.evaluation.alter import applies
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.conditions import TOOL
from lfpc_jax.evaluation.diagnostics import to_ask
from lfpc_jax.evaluation.intervals import Estimate, change, share
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.measures import Measures
from lfpc_jax.evaluation.results import Answers, grade_all
from lfpc_jax.evaluation.scoring import over_samples
from lfpc_jax.rewards.answers import options_by_letter
from lfpc_jax.rewards.judge import Remembered
from lfpc_jax.trajectory import Record

ACCURACY, NOISE, DROP = "accuracy", "noise", "drop"
_OF_EPISODES: dict[str, Callable[[Measures], float | None]] = {
    ACCURACY: lambda one: one.right,
    "calls": lambda one: float(one.crops > 0),
    "overlap": lambda one: one.overlap,
    "iou": lambda one: one.iou,
    "area": lambda one: fmean(one.areas) if one.areas else None,
}
MEASURES = {
    ACCURACY: "answers that are right",
    NOISE: "answers that are right when every crop is noise",
    DROP: "what noise takes from the accuracy",
    "calls": "episodes with a crop",
    "overlap": "share of the target that the fullest crop holds, 0 without a crop",
    "iou": "IoU of that crop and the target",
    "area": "a crop's share of the image",
}
_ENDS = dict.fromkeys(MEASURES, (0.0, 1.0)) | {DROP: (-1.0, 1.0)}
"""The least and the most that a measure can be."""


@dataclass(frozen=True)
class Arm:
    """A name and the folders of its evaluations, one a seed."""

    name: str
    folders: tuple[Path, ...]

    @cached_property
    def answers(self) -> tuple[Answers, ...]:
        """Graded once, for all benchmarks and budgets; one a folder. By the verdicts of the judge
        that `evaluate.py` graded it with, if it did."""
        return tuple(
            grade_all(
                Journal(folder), Remembered(folder / "verdicts", *judge) if judge[0] else None
            )
            for folder, judge in zip(self.folders, self._judges)
        )

    @property
    def judges(self) -> tuple[str, ...]:
        """The name of each folder's judge, empty if it was graded by rule alone, or not yet."""
        return tuple(name for name, _ in self._judges)

    @cached_property
    def _judges(self) -> tuple[tuple[str, str], ...]:
        return tuple(_judge_of(folder / "results.json") for folder in self.folders)


def _judge_of(results: Path) -> tuple[str, str]:
    """Its name, and its server, which results of an earlier version do not say."""
    if not results.is_file():
        return "", ""
    try:
        found = json.loads(results.read_bytes())
        return str(found["judge"]), str(found.get("judge_server", ""))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{results}: is damaged ({error!r:.200}); make it again with evaluate.py "
            f"{results.parent} --rescore"
        ) from error


@dataclass(frozen=True)
class Change:
    """What `measure` is in the arm `after`, less `times` what it is in the arm `before`."""

    measure: str
    before: str
    after: str
    times: float = 1.0

    @classmethod
    def parse(cls, measure: str, before: str, after: str) -> "Change":
        """From the words that follow --change; `before` may be `3*baseline`."""
        factor, star, name = before.rpartition("*")
        try:
            times = float(factor) if star else 1.0
        except ValueError:
            raise ValueError(f"--change {measure} {before}: {factor!r} is no number") from None
        return cls(measure, name, after, times)

    def __str__(self) -> str:
        factor = "" if self.times == 1 else f"{self.times:g} x "
        return f"{self.measure}, {factor}{self.before} to {self.after}"


@dataclass(frozen=True)
class Found:
    """A value over all seeds, and each seed's; of a change between arms that have not the same
    number of seeds only the first."""

    estimate: Estimate
    seeds: tuple[float, ...]


class Comparison:
    """All arms on one benchmark at one budget of visual tokens.

    They must have been asked the same questions. One that could not be judged in every evaluation
    counts in no accuracy. `notes` say what to know before believing a number.
    """

    def __init__(self, arms: Sequence[Arm], benchmark: str, tokens: int) -> None:
        self._seeds = {
            arm.name: [
                _by_question(answers, folder, benchmark, tokens)
                for answers, folder in zip(arm.answers, arm.folders)
            ]
            for arm in arms
        }
        part = Trial(benchmark, tokens, TOOL)
        self._samples = {
            one.record.id: sample_of(one.record)
            for arm in arms
            for answers in arm.answers
            for one in answers[part]
        }
        asked = [
            (arm.name, folder, {one.record.id: one.record for one in answers[part]})
            for arm in arms
            for answers, folder in zip(arm.answers, arm.folders)
        ]
        where = f"{benchmark} at {tokens} tokens"
        _check_same(where, asked)
        self.notes = _downsampled_otherwise(where, asked)
        self.notes += self._leave_out_unjudged(where, asked[0][2])

    def _leave_out_unjudged(self, where: str, records: Mapping[str, Record]) -> list[str]:
        """Takes from every evaluation what is not known of every one; says of how many."""
        seeds = [seed for seeds in self._seeds.values() for seed in seeds]
        lacking: set[str] = set()
        for measure, asked in (
            (ACCURACY, set(records)),
            (NOISE, {one for one in records if applies(NOISE, records[one])}),
        ):
            known = [seed[measure].keys() for seed in seeds if measure in seed]
            lacking |= asked - asked.intersection(*known)
        for seed in seeds:
            for measure in (ACCURACY, NOISE, DROP):
                for question in lacking & seed.get(measure, {}).keys():
                    del seed[measure][question]
        if not lacking:
            return []
        return [
            f"{where}: {len(lacking)} of {len(records)} questions could not be judged in every "
            "evaluation, and count in no accuracy"
        ]

    def measured(self, arm: str, measure: str) -> Found | None:
        """None where nothing was measured."""
        values = self._over_samples(self._pooled(arm, measure))
        estimate = change(values) if measure == DROP else share(_mean(values), len(values))
        return None if estimate is None else Found(estimate, self._each(arm, measure))

    def changed(self, asked: Change) -> Found | None:
        """Paired by question, each seed's as well; None where no question has both."""
        least, most = _ENDS[asked.measure]
        before, after = (self._pooled(arm, asked.measure) for arm in (asked.before, asked.after))
        found = change(
            self._differences(before, after, asked.times),
            ends=(least - asked.times * most, most - asked.times * least),
        )
        if found is None:
            return None
        then, now = (self._seeds[arm] for arm in (asked.before, asked.after))
        if len(then) == 1:  # what all seeds began from
            then = then * len(now)
        pairs = zip(then, now) if len(then) == len(now) else ()
        seeds = (
            self._differences(a.get(asked.measure, {}), b.get(asked.measure, {}), asked.times)
            for a, b in pairs
        )
        return Found(found, tuple(fmean(values) for values in seeds if values))

    def _differences(
        self, before: Mapping[str, float], after: Mapping[str, float], times: float
    ) -> list[float]:
        """By sample, of the questions that have both."""
        return self._over_samples(
            {one: value - times * before[one] for one, value in after.items() if one in before}
        )

    def _pooled(self, arm: str, measure: str) -> dict[str, float]:
        """By question, over seeds."""
        found: dict[str, list[float]] = {}
        for seed in self._seeds[arm]:
            for question, value in seed.get(measure, {}).items():
                found.setdefault(question, []).append(value)
        return {question: fmean(values) for question, values in found.items()}

    def _each(self, arm: str, measure: str) -> tuple[float, ...]:
        """By seed, over samples."""
        seeds = (self._over_samples(seed.get(measure, {})) for seed in self._seeds[arm])
        return tuple(fmean(values) for values in seeds if values)

    def _over_samples(self, by_question: Mapping[str, float]) -> list[float]:
        return over_samples((self._samples[one], value) for one, value in by_question.items())


_Asked = Sequence[tuple[str, Path, Mapping[str, Record]]]
"""By evaluation: its arm, its folder, its records by id."""


def _check_same(where: str, asked: _Asked) -> None:
    """Refuses questions that differ, but for where pictures lie and the order of options."""
    _, first, records = asked[0]
    if len({frozenset(found) for _, _, found in asked}) > 1:
        counts: dict[str, list[int]] = {}
        for arm, _, found in asked:
            counts.setdefault(arm, []).append(len(found))
        raise ValueError(
            f"{where}: arms were not asked the same questions ({counts}); evaluate them alike"
        )
    for _, folder, found in asked[1:]:
        for name, record in found.items():
            if _essence(record) != _essence(records[name]):
                raise ValueError(
                    f"{where}: record {name!r} is another question in {folder} than in {first}: "
                    f"{_essence(record)!r:.200}, not {_essence(records[name])!r:.200}; evaluate "
                    "them on the same set"
                )


def _essence(record: Record) -> tuple[object, ...]:
    right = options_by_letter(record).get(record.answer, record.answer)
    return record.question, sorted(record.options), right, record.targets


def _downsampled_otherwise(where: str, asked: _Asked) -> list[str]:
    _, _, records = asked[0]
    others = {
        name
        for _, _, found in asked[1:]
        for name, record in found.items()
        if record.longest_side != records[name].longest_side
    }
    if not others:
        return []
    return [
        f"{where}: {len(others)} of {len(records)} images were downsampled otherwise in one "
        "evaluation than in another"
    ]


def _by_question(
    answers: Answers, folder: Path, benchmark: str, tokens: int
) -> dict[str, dict[str, float]]:
    """Of one evaluation: measure, question, value."""
    tool = answers.get(Trial(benchmark, tokens, TOOL))
    if tool is None:
        raise ValueError(
            f"{folder}: no answers to {benchmark} at {tokens} tokens with the tool; there are "
            f"{sorted(part.name for part in answers)}"
        )
    found = {name: _means(tool, value) for name, value in _OF_EPISODES.items()}
    noise = Trial(benchmark, tokens, NOISE)
    if (altered := answers.get(noise)) is not None:
        left = {record.id for record in to_ask(NOISE, [one.record for one in tool], tool)}
        left -= {one.record.id for one in altered}
        if left:
            raise ValueError(
                f"{folder}: of {len(tool)} questions {len(left)} have no answer yet to "
                f"{noise.name}; the command that evaluated it goes on there"
            )
        right, again = found[ACCURACY], _means(altered, _OF_EPISODES[ACCURACY])
        uncropped = {one.record.id for one in tool if not one.crops and applies(NOISE, one.record)}
        found[NOISE] = again | {one: value for one, value in right.items() if one in uncropped}
        found[DROP] = {
            one: right[one] - value for one, value in found[NOISE].items() if one in right
        }
    return found


def _means(
    answered: Sequence[Answered], value_of: Callable[[Measures], float | None]
) -> dict[str, float]:
    """By question, over rollouts; without questions of which nothing was measured."""
    found = {}
    for one in answered:
        values = [value for episode in one.episodes if (value := value_of(episode)) is not None]
        if values:
            found[one.record.id] = fmean(values)
    return found


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
