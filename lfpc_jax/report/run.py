"""A run's folder, opened for a report: as much of it as is there and can be read.

    RUN/config.json  metrics.jsonl  trajectories/  assets/

None of them has to exist, but what is missing becomes a `Problem`. Evaluation folders look alike,
but have `evaluation.json` for the settings and no metrics. The verdicts in their `scores.jsonl`
replace those that were stored when an answer came."""

import fnmatch
import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.processing.tokenizer import Tokenizer
from lfpc_jax.report import metrics
from lfpc_jax.report.metrics import Curve
from lfpc_jax.report.problems import Problem
from lfpc_jax.rollout import archive
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.trajectory import Group

_STORED_ASSETS = "hf"
"""Where a folder of `lfpc convert to-orbax` keeps a model's files."""


Verdicts = dict[tuple[str, str], list[float | None]]
"""Whether each answer is right, by part and record."""


@dataclass(eq=False)
class Run:
    folder: Path
    name: str
    config: Any
    curves: list[Curve]
    tokenizer: Tokenizer | None
    problems: list[Problem]
    verdicts: Verdicts = field(default_factory=dict)
    sheets: list[dict[str, Any]] = field(default_factory=list)
    """Tables of text: what an evaluation came to."""

    @property
    def is_evaluation(self) -> bool:
        return _evaluation(self.folder).is_file()

    def groups(self, pattern: str, limit: int) -> Iterator[tuple[str, Group]]:
        """Groups of the parts whose names match, with their part, until `limit` trajectories.

        A limit takes a group of each part in turn, from parts that are spread evenly over the run:
        the last and the first part come before those between.
        """
        parts = self._parts(pattern)
        open_parts = [(part, self._read(part)) for part in _spread(parts)]
        taken = unscored = 0
        while open_parts and taken < limit:
            going = []
            for part, groups in open_parts:
                group = next(groups, None) if taken < limit else None
                if group is None:
                    continue
                taken += len(group.trajectories)
                verdicts = self._verdicts_on(part, group)
                unscored += bool(self.verdicts) and verdicts is None
                yield part, _scored(group, verdicts)
                going.append((part, groups))
            open_parts = going
        if unscored:
            lacking = (
                f"has no verdicts on {unscored} of the questions here, which are shown by rule, as "
                f"of when an answer came; `lfpc evaluate {self.folder} --rescore`"
            )
            self.problems.append(Problem(str(self.folder / "scores.jsonl"), lacking))
        if taken >= limit:
            self.problems.append(
                Problem(
                    str(self.folder / "trajectories"),
                    f"the first {taken} trajectories of {len(parts)} parts are here, the limit; "
                    "there may be more: raise --episodes or choose --parts",
                )
            )

    def _verdicts_on(self, part: str, group: Group) -> list[float | None] | None:
        """The verdicts on a group's answers from `scores.jsonl`, if they are there and as many."""
        rights = self.verdicts.get((part.rpartition("-p")[0], str(group.record.id)))
        return rights if rights is not None and len(rights) == len(group.rewards) else None

    def _parts(self, pattern: str) -> list[str]:
        folder = self.folder / "trajectories"
        if not folder.is_dir():
            self.problems.append(Problem(str(folder), "missing; no episodes for this run"))
            return []
        every = Archive(folder).parts()
        parts = [part for part in every if fnmatch.fnmatchcase(part, pattern)]
        if not parts:
            names = ", ".join(every[:20]) or "none"
            self.problems.append(
                Problem(str(folder), f"no part matches {pattern!r}; there are {names}")
            )
        return parts

    def _read(self, part: str) -> Iterator[Group]:
        """The archive's own reader skips what is no group and logs it; here that is collected."""
        folder = self.folder / "trajectories"
        groups = Archive(folder).read(part)
        while True:
            with _collected(self.problems):
                try:
                    group = next(groups, None)
                except Exception as error:  # whatever a damaged file raises, the rest is shown
                    where = str(folder / f"{part}.jsonl")
                    reason = f"not read to its end: {type(error).__name__}: {error!s:.300}"
                    self.problems.append(Problem(where, reason))
                    return
            if group is None:
                return
            yield group


def _scored(group: Group, verdicts: list[float | None] | None) -> Group:
    if verdicts is None:
        return group
    pairs = zip(group.rewards, verdicts)
    return replace(group, rewards=tuple(parts | {"accuracy": right} for parts, right in pairs))


def open_run(folder: Path, model: Path | None) -> Run:
    """Opens a run or an evaluation. The tokenizer comes from `model` if the run has none."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no folder of a run; give one that lfpc train or lfpc evaluate made"
        )
    problems: list[Problem] = []
    curves: list[Curve] = []
    verdicts: Verdicts = {}
    if (evaluation := _evaluation(folder)).is_file():
        config = _config(evaluation, problems)
        verdicts = _verdicts(folder / "scores.jsonl", problems)
    else:
        curves, unread = metrics.read(folder / "metrics.jsonl")
        problems += unread
        config = _config(folder / "config.json", problems)
    tokenizer = _tokenizer(folder, model, problems)
    return Run(folder, folder.resolve().name, config, curves, tokenizer, problems, verdicts)


def _evaluation(folder: Path) -> Path:
    return folder / "evaluation.json"


def _verdicts(file: Path, problems: list[Problem]) -> Verdicts:
    verdicts: Verdicts = {}
    if not file.is_file():
        reason = "missing; verdicts are by rule, as of when an answer came"
        problems.append(Problem(str(file), reason))
        return verdicts
    for number, line in enumerate(regular.lines(file), 1):
        try:
            entry = json.loads(line)
            rights = [None if right is None else float(right) for right in entry["right"]]
            verdicts[str(entry["part"]), str(entry["record"])] = rights
        except OTHER_SHAPE as error:
            where = f"{file}, line {number}"
            problems.append(Problem(where, f"no line of scores, skipped ({error!r:.160})"))
    return verdicts


def _config(file: Path, problems: list[Problem]) -> Any:
    try:
        return json.loads(regular.contents(file), parse_constant=str, parse_float=_finite)
    except FileNotFoundError:
        problems.append(Problem(str(file), "missing; the settings of this run are not shown"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(Problem(str(file), f"cannot be read, left out: {error!s:.200}"))
    return None


def _finite(number: str) -> float | str:
    return float(number) if math.isfinite(float(number)) else number


def _tokenizer(folder: Path, model: Path | None, problems: list[Problem]) -> Tokenizer | None:
    assets = folder / "assets"
    tried = [assets] if assets.is_dir() else []
    if model is not None:
        tried += [model / _STORED_ASSETS if (model / _STORED_ASSETS).is_dir() else model]
    for place in tried:
        try:
            return Tokenizer.from_folder(place)
        except Exception as error:  # of transformers and its parsers anything may come
            problems.append(Problem(str(place), f"no tokenizer: {error!s:.300}"))
    reason = "no tokenizer; conversations show the text of turns, without tokens and prompts"
    hint = "" if model is not None else ": give --model DIR"
    problems.append(Problem(str(assets), reason + hint))
    return None


def _spread(parts: list[str]) -> list[str]:
    """Every beginning of the result is spread evenly over the parts; the last one comes first."""
    order: list[int] = []
    bits = max(len(parts) - 1, 0).bit_length()
    for number in range(1 << bits):
        place = int(format(number, f"0{bits}b")[::-1], 2) if bits else 0
        if place < len(parts):
            order.append(len(parts) - 1 - place)
    return [parts[place] for place in order]


class _Collector(logging.Handler):
    def __init__(self, problems: list[Problem]) -> None:
        super().__init__()
        self.problems = problems

    def emit(self, entry: logging.LogRecord) -> None:
        where, _, what = entry.getMessage().partition(": ")
        self.problems.append(Problem(where, what))


@contextmanager
def _collected(problems: list[Problem]) -> Iterator[None]:
    """What the archive logs, as problems and not on the terminal a second time."""
    handler, kept = _Collector(problems), archive.log.propagate
    archive.log.addHandler(handler)
    archive.log.propagate = False
    try:
        yield
    finally:
        archive.log.removeHandler(handler)
        archive.log.propagate = kept
