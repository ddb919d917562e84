"""Draws the synthetic world as a data set in the project's layout, or as benchmark files.

    lfpc synthesize OUT --count 10000
    lfpc synthesize OUT --count 2000 --world easy
    lfpc synthesize OUT --count 200 --size 7680x4320 --object-side 120 320 --mark-side 36 72 \\
        --photographs PHOTOS --split heldout --format layout hrbench vstar

OUT gets the layout (meta.json, records, images), `hrbench.tsv` or `vstar/`, the settings in
`world.json`, and `contact.png`, a contact sheet to look at. Each benchmark has other scenes,
because it prescribes how many options a question has. Nothing appears at OUT before all of it is
written. `--world` chooses the settings of `scene.WORLDS` to begin from; the other flags change
them. """

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax

from lfpc_jax.checkpoint import staging
from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.synthesize import parser
from lfpc_jax.data import benchmarks, contact, drawing, layout, scene, world
from lfpc_jax.data.scene import WorldSettings
from lfpc_jax.run import progress

_ON_THE_SHEET = 12


def main(argv: Sequence[str] | None = None) -> int:
    args = parser(argv).parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # no device is needed, nor should one be taken
    return command.run(partial(synthesize, args))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def synthesize(args: argparse.Namespace) -> None:
    knobs = {knob.name: getattr(args, knob.name) for knob in fields(WorldSettings)}
    settings = WorldSettings(**{name: _frozen(value) for name, value in knobs.items()})
    if args.count < 1 or args.workers < 1:
        raise ValueError(f"--count {args.count}, --workers {args.workers}: must be at least 1")
    nested = args.nested
    ascending = all(a < b for a, b in pairwise([*(nested or ()), math.inf]))
    if nested is not None and (nested[0] < 1 or not ascending):
        raise ValueError(f"--nested {nested}: must ascend and begin at 1 or more")
    if args.photographs:
        staging.check_apart(args.photographs, args.out)
    start = time.monotonic()
    with staging.staged(args.out, overwrite=args.overwrite) as folder:
        for format in dict.fromkeys(args.format):
            with progress.bar(f"drawing {format}", args.count) as advance:
                _write(format, folder, settings, args, advance)
        origin = {
            "seed": args.seed,
            "split": args.split,
            "nested": args.nested,
            "settings": asdict(settings),
        }
        (folder / "world.json").write_text(json.dumps(origin, indent=2) + "\n")
        scenes = [
            scene.plan(settings, args.seed, args.split, index)
            for index in range(min(args.count, _ON_THE_SHEET))
        ]
        shown_side = settings.longest_side or max(settings.size) // 4
        targets = [drawing.targets_of(planned, nested) for planned in scenes]
        contact.sheet(scenes, targets, shown_side=shown_side).save(folder / "contact.png")
    seconds = time.monotonic() - start
    drawn = args.count * len(dict.fromkeys(args.format))
    print(
        f"wrote {args.out}: {drawn} scenes in {seconds:.1f} s, {60 * drawn / seconds:,.0f} a minute"
    )


def _write(
    format: str,
    folder: Path,
    settings: WorldSettings,
    args: argparse.Namespace,
    advance: Callable[[int], None],
) -> None:
    samples = partial(
        drawing.samples,
        seed=args.seed,
        split=args.split,
        nested=args.nested,
        count=args.count,
        workers=args.workers,
        advance=advance,
    )
    match format:
        case "layout":
            records = (record for record, _ in samples(settings))
            layout.write(folder, records, table=args.table, about={"world": asdict(settings)})
        case "hrbench":
            records = (record for record, _ in samples(world.for_hr_bench(settings)))
            benchmarks.write_hr_bench(folder / "hrbench.tsv", records)
        case "vstar":
            benchmarks.write_v_star(folder / "vstar", samples(world.for_v_star(settings)))


if __name__ == "__main__":
    sys.exit(main())
