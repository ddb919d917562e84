"""Writes one set in the project's layout from several sets, here or on the Hub.

    lfpc gather SET... OUT
    lfpc gather deep_eyes:ChenShawn/DeepEyes-Datasets-47k russwang/ThinkLite-VL-hard-11k data/focus
    lfpc gather data/focus-answer data/boxes --boxes drawn.json

SET is named as everywhere (lfpc_jax/data/sources.py): a folder in our layout, READER:PATH, or a
name on the Hub, which is fetched. OUT gets the records in their order, and pictures that were
embedded become files, as training needs them; other pictures are copied, or with --link named where
they are. What is left out is counted by its reason, and listed in OUT/meta.json.

With --boxes only the records that FILE has boxes for are written, with these as their targets:
{"ID": [[[x1, y1, x2, y2], ...], ...]}, for each thing that must be seen its nested boxes, the
smallest first, in pixels of the upright original.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.gather import parser
from lfpc_jax.data import drawn_boxes, layout, sources
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.run import progress
from lfpc_jax.trajectory import Record


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(gather, args))


def gather(args: argparse.Namespace) -> None:
    drawn = None if args.boxes is None else drawn_boxes.read_boxes(args.boxes)
    sets = (_read(source, args.limit) for source in args.data)
    entries: Iterator[Record | Rejected] = chain.from_iterable(sets)
    if drawn is not None:
        entries = drawn_boxes.with_boxes(entries, drawn)
    with progress.waiting(f"writing {args.out}"):
        count, rejected = layout.write(
            args.out,
            entries,
            table=args.table,
            copy_files=not args.link,
            max_share=args.max_lost,
            about={"gathered_from": args.data},
        )
    if drawn is not None and count < len(drawn):
        print(f"warning: {len(drawn) - count} of {args.boxes}'s boxes are of no record that was "
              "written; an id is written as in records.jsonl", file=sys.stderr)  # fmt: skip
    for reason, lost in Counter(entry.reason for entry in rejected).most_common():
        print(f"left out, {reason}: {lost}", file=sys.stderr)
    print(f"wrote {args.out}: {count:,} records, {len(rejected):,} left out")


def _read(source: str, limit: int | None) -> Iterator[Record | Rejected]:
    """The entries of a set, up to `limit` records."""
    records = 0
    for entry in sources.read(source):
        if records == limit:
            return
        records += isinstance(entry, Record)
        yield entry


if __name__ == "__main__":
    sys.exit(main())
