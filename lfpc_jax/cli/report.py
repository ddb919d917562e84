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
import sys
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from lfpc_jax import stopping
from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.report import parser
from lfpc_jax.report import changes, document, plots
from lfpc_jax.report.album import Album
from lfpc_jax.report.conversation import Decoder
from lfpc_jax.report.document import Contents
from lfpc_jax.report.episodes import Episodes
from lfpc_jax.report.problems import Problem
from lfpc_jax.report.run import open_run
from lfpc_jax.run import progress, reported
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
        for folder in args.runs:
            changes.check_of_a_run(folder)
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
    runs = [
        open_run(folder, args.model) for folder in folders if not reported.is_comparison(folder)
    ]
    names = reported.names(runs)
    compared, problems = reported.comparisons(filter(reported.is_comparison, folders))
    # ------------------------------------------------------------------ their episodes
    episodes = Episodes(Album(side=args.side, crop_side=max(64, args.side // 2)))
    with progress.waiting("reading episodes"):
        for number, run in enumerate(runs):
            run.sheets = reported.sheets_of(run)
            decoder = Decoder(run.tokenizer)
            replaced = cache(partial(reported.replaced, run))
            seen = cache(partial(reported.seen, run))
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


def _say_problems(problems: Sequence[Problem]) -> None:
    for problem in problems[:_PRINTED]:
        print(f"note: {problem}", file=sys.stderr)
    if len(problems) > _PRINTED:
        print(f"note: and {len(problems) - _PRINTED} more, on the page", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
