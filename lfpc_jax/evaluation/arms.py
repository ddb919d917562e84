"""Several models on the same questions: arms of a comparison, each evaluated once for every seed.

Every measure, and every change between two arms, is first a value of each question: the mean over
its rollouts and the arm's seeds. A sample's value is then the mean over its questions. The 95%
intervals count samples, as those of `lfpc evaluate` do: the four cycles of an HR-Bench sample are
one sample. Each seed's value is given beside them. With `over_seeds` intervals count seeds as drawn
as well (`intervals.crossed`); three seeds that disagree make them wide.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np

from lfpc_jax.data.hr_bench import sample_of
from lfpc_jax.evaluation.alter import applies
from lfpc_jax.evaluation.answers import Answered
from lfpc_jax.evaluation.conditions import TOOL
from lfpc_jax.evaluation.diagnostics import to_ask
from lfpc_jax.evaluation.intervals import Estimate, change, crossed, mean, share
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.measures import Measures
from lfpc_jax.evaluation.results import Answers, grade_all
from lfpc_jax.evaluation.scoring import over_samples
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.rewards.answers import options_by_letter
from lfpc_jax.rewards.judge import Remembered
from lfpc_jax.trajectory import Record

ACCURACY, NOISE, DROP, FULL = "accuracy", "noise", "drop", "full"
_OF_EPISODES: dict[str, Callable[[Measures], float | None]] = {
    ACCURACY: lambda episode: episode.right,
    "calls": lambda episode: float(episode.crops > 0),
    "overlap": lambda episode: episode.overlap,
    "iou": lambda episode: episode.iou,
    "area": lambda episode: fmean(episode.areas) if episode.areas else None,
    FULL: lambda episode: episode.full,
}
MEASURES = {
    ACCURACY: "answers that are right",
    NOISE: "answers that are right when every crop is noise",
    DROP: "what noise takes from the accuracy",
    "calls": "episodes with a crop",
    "overlap": "share of the target that the fullest crop holds, 0 without a crop",
    "iou": "IoU of that crop and the target",
    "area": "a crop's share of the image",
    FULL: "targets that a crop network's box holds whole, 0 without a box",
}
_ENDS = dict.fromkeys(MEASURES, (0.0, 1.0)) | {DROP: (-1.0, 1.0)}
"""The least and the most that a measure can be."""


@dataclass(frozen=True)
class Arm:
    """A name, and the folders of its evaluations, one for each seed. Its answers are those under
    `condition`."""

    name: str
    folders: tuple[Path, ...]
    condition: str = TOOL

    @classmethod
    def parse(cls, name: str, folders: Sequence[str]) -> "Arm":
        """From the words that follow --arm; the name may be `NAME@CONDITION`."""
        condition = name.rpartition("@")[2] if "@" in name else TOOL
        return cls(name, tuple(map(Path, folders)), condition)

    @cached_property
    def answers(self) -> tuple[Answers, ...]:
        """The graded answers of each folder, for all benchmarks and budgets. If `lfpc evaluate`
        graded a folder with a judge, that judge's verdicts count."""
        return tuple(
            grade_all(
                Journal(folder), Remembered(folder / "verdicts", *judge) if judge[0] else None
            )
            for folder, judge in zip(self.folders, self._judges)
        )

    @property
    def judges(self) -> tuple[str, ...]:
        """The name of each folder's judge; empty if the folder was graded by rule alone, or not
        yet."""
        return tuple(name for name, _ in self._judges)

    @cached_property
    def _judges(self) -> tuple[tuple[str, str], ...]:
        return tuple(_judge_of(folder / "results.json") for folder in self.folders)


def _judge_of(results: Path) -> tuple[str, str]:
    """The judge's name, and its server; results of an earlier version do not have the server."""
    if not results.is_file():
        return "", ""
    try:
        said = json.loads(results.read_bytes())
        return str(said["judge"]), str(said.get("judge_server", ""))
    except OTHER_SHAPE as error:
        raise ValueError(
            f"{results}: is damaged ({error!r:.200}); make it again with lfpc evaluate "
            f"{results.parent} --rescore"
        ) from error


@dataclass(frozen=True)
class Change:
    """What `measure` is in the arm `after`, minus `times` what it is in the arm `before`."""

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
class SeededEstimate:
    """A value over all seeds, and the value of each seed. A change between arms with different
    numbers of seeds has only the former."""

    estimate: Estimate
    seeds: tuple[float, ...]


class Comparison:
    """All arms on one benchmark at one budget of visual tokens.

    All arms must have been asked the same questions. A question that could not be judged in every
    evaluation counts in no accuracy. `notes` are warnings about the numbers.
    """

    def __init__(
        self, arms: Sequence[Arm], benchmark: str, tokens: int, *, over_seeds: bool = False
    ) -> None:
        self._over_seeds = over_seeds
        self._seeds = {
            arm.name: [
                _by_question(answers, folder, Trial(benchmark, tokens, arm.condition))
                for answers, folder in zip(arm.answers, arm.folders)
            ]
            for arm in arms
        }
        parts = {arm.name: Trial(benchmark, tokens, arm.condition) for arm in arms}
        self._samples = {
            answered.record.id: sample_of(answered.record)
            for arm in arms
            for answers in arm.answers
            for answered in answers[parts[arm.name]]
        }
        asked = [
            (
                arm.name,
                folder,
                {answered.record.id: answered.record for answered in answers[parts[arm.name]]},
            )
            for arm in arms
            for answers, folder in zip(arm.answers, arm.folders)
        ]
        where = f"{benchmark} at {tokens} tokens"
        _check_same(where, asked)
        self._graded = any(record.graded for record in asked[0][2].values())
        self.notes = _downsampled_otherwise(where, asked)
        self.notes += self._leave_out_unjudged(where, asked[0][2])

    def _leave_out_unjudged(self, where: str, records: Mapping[str, Record]) -> list[str]:
        """Takes out of every evaluation the questions that are not known in all of them, and notes
        how many there are."""
        seeds = [seed for seeds in self._seeds.values() for seed in seeds]
        lacking: set[str] = set()
        for measure, asked in (
            (ACCURACY, set(records)),
            (NOISE, {record for record in records if applies(NOISE, records[record])}),
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

    def shows_boxes(self, arm: str) -> bool:
        """Whether a target model was shown this arm's boxes, and some could be cut."""
        return any(FULL in seed and any(seed["calls"].values()) for seed in self._seeds[arm])

    def measured(self, arm: str, measure: str) -> SeededEstimate | None:
        """A measure of an arm; None if nothing was measured."""
        values = self._over_samples(self._pooled(arm, measure))
        if measure == DROP:
            estimate = change(values)
        elif self._graded and measure in (ACCURACY, NOISE):
            estimate = mean(values)
        else:
            estimate = share(_mean(values), len(values))
        if self._over_seeds:
            of_seeds = [seed.get(measure, {}) for seed in self._seeds[arm]]
            estimate = self._crossed(of_seeds, _ENDS[measure]) or estimate
        return None if estimate is None else SeededEstimate(estimate, self._each(arm, measure))

    def changed(self, asked: Change) -> SeededEstimate | None:
        """A change, paired by question, over all seeds and for each seed; None if no question has
        both."""
        least, most = _ENDS[asked.measure]
        before, after = (self._pooled(arm, asked.measure) for arm in (asked.before, asked.after))
        ends = least - asked.times * most, most - asked.times * least
        estimate = change(self._over_samples(_differences(before, after, asked.times)), ends=ends)
        if estimate is None:
            return None
        then, now = (self._seeds[arm] for arm in (asked.before, asked.after))
        if len(then) == 1:  # what all seeds began from
            then = then * len(now)
        pairs = zip(then, now) if len(then) == len(now) else ()
        differences = [
            _differences(a.get(asked.measure, {}), b.get(asked.measure, {}), asked.times)
            for a, b in pairs
        ]
        if self._over_seeds:
            estimate = self._crossed(differences, ends) or estimate
        seeds = map(self._over_samples, differences)
        return SeededEstimate(estimate, tuple(fmean(values) for values in seeds if values))

    def _crossed(
        self, seeds: Sequence[Mapping[str, float]], ends: tuple[float, float]
    ) -> Estimate | None:
        """The mean over seeds and samples with an interval over both, of the questions that every
        seed has a value for. None with a single seed."""
        if len(seeds) < 2:
            return None
        common = sorted(set.intersection(*map(set, seeds)))
        rows = [
            self._over_samples({question: seed[question] for question in common}) for seed in seeds
        ]
        return crossed(np.array(rows), ends)

    def _pooled(self, arm: str, measure: str) -> dict[str, float]:
        """The values by question, as means over seeds."""
        pooled: dict[str, list[float]] = {}
        for seed in self._seeds[arm]:
            for question, value in seed.get(measure, {}).items():
                pooled.setdefault(question, []).append(value)
        return {question: fmean(values) for question, values in pooled.items()}

    def _each(self, arm: str, measure: str) -> tuple[float, ...]:
        """The value of each seed, over samples."""
        seeds = (self._over_samples(seed.get(measure, {})) for seed in self._seeds[arm])
        return tuple(fmean(values) for values in seeds if values)

    def _over_samples(self, by_question: Mapping[str, float]) -> list[float]:
        return over_samples(
            (self._samples[question], value) for question, value in by_question.items()
        )


_Asked = Sequence[tuple[str, Path, Mapping[str, Record]]]
"""By evaluation: its arm, its folder, its records by id."""


def _check_same(where: str, asked: _Asked) -> None:
    """Raises for arms whose questions differ; where pictures lie and the order of options may
    differ."""
    _, first, records = asked[0]
    if len({frozenset(questions) for _, _, questions in asked}) > 1:
        counts: dict[str, list[int]] = {}
        for arm, _, questions in asked:
            counts.setdefault(arm, []).append(len(questions))
        raise ValueError(
            f"{where}: arms were not asked the same questions ({counts}); evaluate them alike"
        )
    for _, folder, questions in asked[1:]:
        for name, record in questions.items():
            if _essence(record) != _essence(records[name]):
                raise ValueError(
                    f"{where}: record {name!r} is another question in {folder} than in {first}: "
                    f"{_essence(record)!r:.200}, not {_essence(records[name])!r:.200}; evaluate "
                    "them on the same set"
                )


def _essence(record: Record) -> tuple[object, ...]:
    right = options_by_letter(record).get(record.answer, record.answer)
    scored = right, record.references, record.metric
    return record.question, sorted(record.options), *scored, record.targets


def _downsampled_otherwise(where: str, asked: _Asked) -> list[str]:
    _, _, records = asked[0]
    others = {
        name
        for _, _, questions in asked[1:]
        for name, record in questions.items()
        if record.longest_side != records[name].longest_side
    }
    if not others:
        return []
    return [
        f"{where}: {len(others)} of {len(records)} images were downsampled otherwise in one "
        "evaluation than in another"
    ]


def _differences(
    before: Mapping[str, float], after: Mapping[str, float], times: float
) -> dict[str, float]:
    """The differences, over the questions that have both values."""
    return {
        question: value - times * before[question]
        for question, value in after.items()
        if question in before
    }


def _by_question(answers: Answers, folder: Path, part: Trial) -> dict[str, dict[str, float]]:
    """The values of one evaluation, by measure and question."""
    tool = answers.get(part)
    if tool is None:
        under = "with the tool" if part.condition == TOOL else f"under {part.condition!r}"
        raise ValueError(
            f"{folder}: no answers to {part.benchmark} at {part.tokens} tokens {under}; there are "
            f"{sorted(other.name for other in answers)}"
        )
    measured = {name: _means(tool, value) for name, value in _OF_EPISODES.items()}
    if not any(episode.end == "proposed" for answered in tool for episode in answered.episodes):
        del measured[FULL]
    noise = replace(part, condition=NOISE)
    altered = answers.get(noise) if part.condition == TOOL else None
    if altered is not None:
        left = {record.id for record in to_ask(NOISE, [answered.record for answered in tool], tool)}
        left -= {answered.record.id for answered in altered}
        if left:
            raise ValueError(
                f"{folder}: of {len(tool)} questions {len(left)} have no answer yet to "
                f"{noise.name}; rerun the command that evaluated it to resume"
            )
        right, again = measured[ACCURACY], _means(altered, _OF_EPISODES[ACCURACY])
        uncropped = {
            answered.record.id
            for answered in tool
            if not answered.crops and applies(NOISE, answered.record)
        }
        measured[NOISE] = again | {
            question: value for question, value in right.items() if question in uncropped
        }
        measured[DROP] = {
            question: right[question] - value
            for question, value in measured[NOISE].items()
            if question in right
        }
    return measured


def _means(
    answered: Sequence[Answered], value_of: Callable[[Measures], float | None]
) -> dict[str, float]:
    """The values by question, as means over rollouts. Questions of which nothing was measured are
    left out."""
    means = {}
    for question in answered:
        values = [
            value for episode in question.episodes if (value := value_of(episode)) is not None
        ]
        if values:
            means[question.record.id] = fmean(values)
    return means


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0
