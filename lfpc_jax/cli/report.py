"""Curves, results and every episode of one or several runs, as one HTML page and PNG plots.

    lfpc report RUN... [--out FILE] [--about TEXT] [--model DIR] [--episodes N] [--parts PATTERN]

RUN is a folder of lfpc train, evaluate or compare. The page needs no network and no server. By
default it is RUN/report.html, or ./report.html for several runs; the plots lie beside it. What
cannot be read is left out and listed, on the page and in the terminal.

With --watch the page is written again whenever there is something new, and an open page shows it by
itself, unless an episode is being read. It ends when all runs have finished; SIGTERM or Ctrl-C ends
it with exit code 0. A run that is watched need not have begun.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

from lfpc_jax import regular, stopping
from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.report import parser
from lfpc_jax.cropvlm.seen import target_view
from lfpc_jax.evaluation import compared as comparisons
from lfpc_jax.evaluation.compared import Compared
from lfpc_jax.evaluation.journal import Journal, Trial
from lfpc_jax.evaluation.seen import shown_crops
from lfpc_jax.evaluation.tables import sheets
from lfpc_jax.jsonfile import OTHER_SHAPE
from lfpc_jax.report import changes, document, plots
from lfpc_jax.report.album import Album
from lfpc_jax.report.conversation import Decoder
from lfpc_jax.report.document import Contents
from lfpc_jax.report.episodes import Episodes, Replaced, SeenByTarget
from lfpc_jax.report.problems import Problem
from lfpc_jax.report.run import Run, open_run
from lfpc_jax.run import progress
from lfpc_jax.run.models import located

_PRINTED = 20


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(report, args))


def report(args: argparse.Namespace) -> int:
    if args.episodes < 0 or args.side < 64:
        raise ValueError(
            f"--episodes {args.episodes}, --side {args.side}: at least 0 episodes and 64 pixels"
        )
    args.model = None if args.model is None else located(args.model)
    args.out = args.out or (args.runs[0] if len(args.runs) == 1 else Path()) / "report.html"
    if args.watch:
        _watch(args)
    else:
        _write(args, args.runs)
    return 0


def _watch(args: argparse.Namespace) -> None:
    """Writes the page while its runs go on, and a last one that is not refreshed."""
    stopping.patient("stops watching")
    seen: Any = None
    while not stopping.told.is_set():
        there = [folder for folder in args.runs if folder.is_dir()]
        now = {folder: changes.signature(folder) for folder in there}
        if len(there) == len(args.runs) and all(map(changes.is_finished, there)):
            break
        if now != seen:
            if there:
                _write(args, there, refresh=args.watch)
            else:
                print(f"waiting for {', '.join(map(str, args.runs))}", flush=True)
            seen = now
        stopping.told.wait(args.watch)
    if there := [folder for folder in args.runs if folder.is_dir()]:
        _write(args, there)


def _write(args: argparse.Namespace, folders: Sequence[Path], refresh: int = 0) -> None:
    """Writes the page of these folders, and the plots beside it."""
    out = args.out
    # ------------------------------------------------------------------ the runs
    runs = [open_run(folder, args.model) for folder in folders if not _is_comparison(folder)]
    names = _names(runs)
    compared, problems = _comparisons(filter(_is_comparison, folders))
    # ------------------------------------------------------------------ their episodes
    episodes = Episodes(Album(side=args.side, crop_side=max(64, args.side // 2)))
    with progress.waiting("reading episodes"):
        for number, run in enumerate(runs):
            run.sheets = _sheets(run)
            decoder = Decoder(run.tokenizer)
            replaced, seen = cache(partial(_replaced, run)), cache(partial(_seen, run))
            for part, group in run.groups(args.parts, args.episodes // len(runs)):
                where = str(run.folder / "trajectories" / f"{part}.jsonl")
                episodes.add(number, part, where, group, decoder, replaced(part), seen(part))
    episodes.arrange()
    # ------------------------------------------------------------------ the page
    out.parent.mkdir(parents=True, exist_ok=True)
    files = plots.plot({name: run.curves for name, run in zip(names, runs)}, out.with_suffix(""))
    contents = Contents(runs, names, episodes, compared, args.about or (), problems, refresh)
    document.write(out, contents)
    _say_problems(contents.all_problems())
    pictures = len(episodes.album.urls)
    size = out.stat().st_size / 1e6
    print(f"wrote {out}: {len(episodes.lines)} episodes, {pictures} pictures, {size:.1f} MB")
    for file in () if refresh else files:
        print(f"wrote {file}")
    sys.stdout.flush()


def _is_comparison(folder: Path) -> bool:
    return (folder / comparisons.FILE).is_file()


def _comparisons(folders: Iterable[Path]) -> tuple[list[Compared], list[Problem]]:
    found: list[Compared] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            found += comparisons.read(folder / comparisons.FILE)
        except (ValueError, OSError) as error:
            problems.append(Problem(str(folder), f"the comparison cannot be shown: {error}"))
    return found, problems


def _sheets(run: Run) -> list[dict[str, Any]]:
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


def _replaced(run: Run, part: str) -> Replaced | None:
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


def _seen(run: Run, part: str) -> SeenByTarget | None:
    """What a target saw in a part of an evaluation, if a target was asked."""
    if not run.is_evaluation:
        return None
    try:
        return target_view(Journal(run.folder), Trial.of(part.rpartition("-p")[0]))
    except (*OTHER_SHAPE, OSError) as error:
        reason = f"what the target saw cannot be made again: {error}"
        run.problems.append(Problem(f"{run.folder}, {part}", reason))
        return None


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with a number after those that occur twice."""
    names: list[str] = []
    for run in runs:
        name, number = run.name, 2
        while name in names:
            name, number = f"{run.name} ({number})", number + 1
        names.append(name)
    return names


def _say_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:_PRINTED]:
        print(f"note: {problem}", file=sys.stderr)
    if len(problems) > _PRINTED:
        print(f"note: and {len(problems) - _PRINTED} more, on the page", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
