"""Computes a training run's recorded episodes again and reports every difference.

    lfpc replay RUN [--part step-000001 validation-000040] [--limit N]
    lfpc replay RUN --part step-000040 --model DIR

From the sampled tokens in RUN/trajectories, the settings in RUN/config.json and the weights that
sampled the tokens, everything else is computed again: prompts, the reading of each turn, crops,
rewards and log-probabilities. Without --part, the parts whose weights are kept are replayed: the
first step's by the model that the run began with, others by RUN's checkpoints. A part that is named
but whose weights are gone is replayed without log-probabilities, unless --model names weights.

The table has a row for the sampler's log-probabilities and one for the policy's, with the largest
difference of a token by class: text, digits (of a call's numbers) and after_crop (other tokens that
follow a crop). Both are the same distribution unless tokens were drawn greedily or with top-k or
top-p.

Exit code: 0 if nothing differs; 3 if anything differs, or a record could not be replayed; 1 for an
error; 2 for wrong flags.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from lfpc_jax.cli import command, revision_flag
from lfpc_jax.cli.parsers.replay import parser
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.rollout.replay import CLASSES
from lfpc_jax.run import progress
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.replaying import TOLERANCE, PartReplay, RunReplay, Weights

DIFFERENT = 3
"""Exit code where something differs, or could not be replayed."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(replay, args))


def replay(args: argparse.Namespace) -> int:
    # ------------------------------------------------------------------ what is recorded
    args.model = revision_flag.named(args.model, args.revision)
    run = RunFolder(args.run)
    if not run.settings.is_file():
        raise ValueError(f"{run.settings}: missing; is {run.path} a training run's folder?")
    mesh = rollout_mesh(args.tensor, devices=jax.local_devices()[: args.tensor])
    replayer = RunReplay(run, mesh, dtype=args.dtype)
    tolerance = TOLERANCE[replayer.dtype] if args.tolerance is None else args.tolerance
    planned, left_out = replayer.plan(args.part, args.model)
    counts = [replayer.archive.count(part.name) for part, _ in planned]
    # ------------------------------------------------------------------ the replay
    replays: list[tuple[str, PartReplay]] = []
    total = sum(min(count, args.limit or count) for count in counts)
    loaded, params = None, None
    with progress.bar("replaying", total, every=5.0) as advance:
        for part, weights in planned:
            if weights != loaded:
                params = None  # its memory is needed for the next
                params = replayer.load(weights) if weights else None
                loaded = weights
            result = replayer.replay(
                part,
                params,
                tolerance=tolerance,
                limit=args.limit,
                advance=advance,
                version=weights.version if weights else None,
            )
            replays.append((_name_of(weights, replayer.demonstrated(part)), result))
    # ------------------------------------------------------------------ what differs
    Console(width=None if sys.stdout.isatty() else 110).print(_table(replays))
    for line in _told(replays, left_out, args.show):
        print(line)
    failed = any(part.differing or part.unreadable or part.damaged for _, part in replays)
    return DIFFERENT if failed else 0


def _name_of(weights: Weights | None, demonstrated: bool) -> str:
    if weights is not None:
        return weights.name
    return "demonstrated" if demonstrated else "not kept"


def _table(replays: Sequence[tuple[str, PartReplay]]) -> Table:
    table = Table(
        title="Largest difference of a token's log-probability, by class",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in ("part", "weights"):
        table.add_column(heading, overflow="fold")
    for heading in ("records", "episodes", "differ"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for heading in CLASSES:
        table.add_column(heading, justify="right")
    for weights, part in replays:
        counts = (part.records, part.episodes, part.differing)
        table.add_row(
            part.name, weights, *map(str, counts), "sampler", *map(_distance, part.sampler.values())
        )
        table.add_row("", "", "", "", "", "policy", *map(_distance, part.policy.values()))
    return table


def _distance(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}"


def _told(
    replays: Sequence[tuple[str, PartReplay]], left_out: Sequence[str], show: int
) -> Iterator[str]:
    parts = [part for _, part in replays]
    lines = [line for part in parts for line in part.lines]
    yield from lines[:show]
    if len(lines) > show:
        yield f"... and {len(lines) - show} more differences; --show {len(lines)} prints all"
    unreadable = [line for part in parts for line in part.unreadable]
    if unreadable:
        yield f"{len(unreadable)} records could not be replayed; the first: {unreadable[0]}"
    for part in parts:
        if part.damaged:
            yield f"{part.name}: {part.damaged} damaged lines hold no episodes (logged above)"
    if mixed := sum(part.mixed for part in parts):
        yield (
            f"{mixed} episodes were begun before the weights that ended them (rollout.ahead), so "
            "their log-probabilities could not be compared"
        )
    if unjudged := sum(part.unjudged for part in parts):
        yield (
            f"{unjudged} answers have no verdict, when they were recorded or in the judge's cache: "
            "their accuracy and total were not compared"
        )
    if left_out:
        yield (
            f"left out, since the weights that sampled them are not kept: {', '.join(left_out)}; "
            "--part replays them without log-probabilities, --model DIR with DIR's"
        )


if __name__ == "__main__":
    sys.exit(main())
