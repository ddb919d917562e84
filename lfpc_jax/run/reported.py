"""What a report shows of its folders beside what `report.run` reads: an evaluation's tables, what
its model or its target saw in place of crops, and comparisons. What cannot be read is a `Problem`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.cropvlm.seen import target_view
from lfpc_jax.evaluation import compared
from lfpc_jax.evaluation.compared import Compared
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.seen import shown_crops
from lfpc_jax.evaluation.tables import sheets
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.report.episodes import Replaced, SeenByTarget
from lfpc_jax.report.problems import Problem
from lfpc_jax.report.run import Run


def is_comparison(folder: Path) -> bool:
    return (folder / compared.FILE).is_file()


def comparisons(folders: Iterable[Path]) -> tuple[list[Compared], list[Problem]]:
    found: list[Compared] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            found += compared.read(folder / compared.FILE)
        except (ValueError, OSError) as error:
            problems.append(Problem(str(folder), f"the comparison cannot be shown: {error}"))
    return found, problems


def sheets_of(run: Run) -> list[dict[str, Any]]:
    """The tables of an evaluation's results. If its files are damaged, no tables and a problem."""
    if not run.is_evaluation:
        return []
    try:
        results, seconds = (
            json.loads(regular.contents(run.folder / name))
            for name in ("results.json", "timing.json")
        )
        return [asdict(sheet) for sheet in sheets(results, seconds)]
    except (*OTHER_SHAPE, OSError) as error:
        reason = f"results cannot be shown: {error!r:.200}; `lfpc evaluate {run.folder} --rescore`"
        run.problems.append(Problem(str(run.folder / "results.json"), reason))
        return []


def replaced(run: Run, part: str) -> Replaced | None:
    """What replaced the crops in a part of an evaluation, if they were altered."""
    if not run.is_evaluation:
        return None
    try:
        journal = Journal(run.folder)
        asked = Trial.of(part.rpartition("-p")[0])
        show = shown_crops(journal, asked)
    except (*OTHER_SHAPE, OSError) as error:
        reason = f"crops are shown as they were cut, which is not how the model saw them: {error}"
        run.problems.append(Problem(f"{run.folder}, {part}", reason))
        return None
    return None if show is None else Replaced(asked.condition, show)


def seen(run: Run, part: str) -> SeenByTarget | None:
    """What a target saw in a part of an evaluation, if a target was asked."""
    if not run.is_evaluation:
        return None
    try:
        return target_view(Journal(run.folder), Trial.of(part.rpartition("-p")[0]))
    except (*OTHER_SHAPE, OSError) as error:
        reason = f"what the target saw cannot be made again: {error}"
        run.problems.append(Problem(f"{run.folder}, {part}", reason))
        return None


def names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with a number after those that occur twice."""
    chosen: list[str] = []
    for run in runs:
        name, number = run.name, 2
        while name in chosen:
            name, number = f"{run.name} ({number})", number + 1
        chosen.append(name)
    return chosen
