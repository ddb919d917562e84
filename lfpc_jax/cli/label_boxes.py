"""Labels the records of a set with boxes, from which a crop network first learns by imitation.

    lfpc label SET OUT --target DIR [--presentation both] [--grid 5]
    lfpc label SET OUT --boxes outside
    lfpc label SET OUT --boxes truth
    lfpc label SET OUT --again OLD [--within 0.5] [--ties largest] [--noise 0] [--seed 1]

SET is a set in our layout or a public one, such as `text_vqa%1/2:FILE` (see data/sources.py). OUT
becomes a set in our layout with the same records, whose target boxes are the labels; pictures that
are files are left where they are. Training reads it, as in `lfpc train --config cropvlm/sft.py`.

By default a frozen target model is asked how likely it finds the right answer with each box of a
grid in view (225 boxes for 5 x 5 cells), and the best box, widened at random, is the label. All
likelihoods are kept in OUT's journals. --again makes other labels of those in OLD, without the
target model. With --boxes outside the labels are the set's own target boxes, such as another
model's, with their areas multiplied by --factors (45, 10, 4, 2 and 1), from the fifth of the set
that covers least of its pictures to the fifth that covers most. With --boxes truth they stay as
tight as they are.

Beside the set are labels.jsonl (each record's label, before and after widening), report.json,
report.png, sheet.png (some labels on their pictures) and timing.json. If interrupted, rerun the
same command to resume; SIGTERM or Ctrl-C stops it with exit code 0. A command whose target, grid or
records differ from those that it began with is refused. Several processes share the work.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import jax

from lfpc_jax.cli import command, target_flags
from lfpc_jax.cli.parsers.label_boxes import GRID, parser
from lfpc_jax.cropvlm import labelled, labels
from lfpc_jax.cropvlm.labels import Label, Measuring, Rule
from lfpc_jax.cropvlm.local import Needs
from lfpc_jax.cropvlm.settings import TargetSettings
from lfpc_jax.cropvlm.target import Target
from lfpc_jax.data import sources
from lfpc_jax.data.audit import Audited, audit
from lfpc_jax.data.digest import digest
from lfpc_jax.data.rejected import Rejected, check_share, parted, summary
from lfpc_jax.distributed import processes
from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.report.labels import plot
from lfpc_jax.rollout.engine import own_share
from lfpc_jax.run import labelling, progress
from lfpc_jax.run.building import open_target
from lfpc_jax.run.claim import FolderClaim
from lfpc_jax.trajectory import Record

_LONGEST_WAIT = 7 * 86400.0
"""Seconds for which processes wait for each other's likelihoods; one that died is known sooner."""


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return command.run(partial(command.resumed, args, label_boxes))


def label_boxes(args: argparse.Namespace, claim: FolderClaim) -> int:
    # ------------------------------------------------------------------ the set
    settings = _checked(args)
    if (args.out / "meta.json").exists():
        raise ValueError(
            f"{args.out}: holds a finished set of labels; choose another folder (to make other "
            f"labels of its likelihoods, add --again {args.out})"
        )
    noise = args.noise if args.noise is not None else float(args.boxes == "grid")
    rule = Rule(args.within, args.ties, noise, args.seed, tuple(args.factors))
    with progress.waiting(f"checking {args.data}"):
        sound = audit(sources.read(args.data), name=args.data, max_share=args.max_lost)
    origin: dict[str, Any] = {"boxes": args.boxes, "records": digest(sound.records)}
    # ------------------------------------------------------------------ the likelihoods
    folder = args.again or args.out
    if settings is not None:
        _measure(args, settings, sound, origin["records"], claim)
        if processes.stop_requested(_LONGEST_WAIT):
            return command.stopped(args.out)
    # ------------------------------------------------------------------ the labels
    if jax.process_index() != 0:
        return 0
    claim.check()
    if args.boxes == "grid":
        about, measured = labels.measured_in(folder, sound.records, origin["records"])
        if args.again and args.grid not in (None, about["grid"]):
            raise ValueError(
                f"--grid {args.grid}: the likelihoods of {args.again} are those of a grid of "
                f"{about['grid']} x {about['grid']}; leave --grid out, or ask the --target again"
            )
        origin |= {"grid": about["grid"], "target": labelled.target_in(about)}
        entries = [
            entry if isinstance(entry, Rejected) else labels.label_of(entry, about["grid"], rule)
            for entry in measured
        ]
    else:
        grid = args.grid or GRID
        entries = labels.labels_of_target_boxes(sound.records, args.boxes, grid, rule)
        origin |= {"grid": grid}
    _publish(args, origin | {"rule": asdict(rule)}, sound, entries)
    return 0


def _checked(args: argparse.Namespace) -> TargetSettings | None:
    """The target that is to be asked, or None if none is needed."""
    settings = target_flags.settings_of(args)
    needless = [flag for flag, given in (("--target", settings), ("--again", args.again)) if given]
    if args.boxes != "grid":
        if needless:
            raise ValueError(f"--boxes {args.boxes} asks no target: leave out {needless[0]}")
        return None
    if len(needless) != 1:
        raise ValueError(
            "give the --target that is to be asked, or --again with the folder of a command that "
            "has asked it; and not both"
        )
    if settings is None:
        return None
    if settings.url:
        raise ValueError(
            f"--target-url {settings.url}: a server does not tell how likely it finds a given "
            "answer; name a --target of this machine"
        )
    if settings.presentation == "image":
        raise ValueError(
            "--presentation image shows no crop, so no box is better than another; take both"
        )
    return settings


# -------------------------------------------------------------------- likelihoods


def _measure(
    args: argparse.Namespace,
    settings: TargetSettings,
    sound: Audited,
    records: str,
    claim: FolderClaim,
) -> None:
    """Fills this process's journal."""
    target = _target(args, settings, sound.records)
    measuring = Measuring(
        target,
        {"records": records} | labelled.about_target(target.identity),
        args.grid or GRID,
        args.chunk,
        shows_nothing=settings.presentation != "crop",
    )
    journal = measuring.journal(args.out, jax.process_index(), jax.process_count())
    journal.check()
    processes.agree({"labels": json.dumps(dict(journal.about))})
    chunks = own_share(labels.in_chunks(sound.records, args.chunk))
    share = [record for chunk in chunks for record in chunk]
    done = journal.resume(share, together=args.chunk)
    with progress.bar("labelling", len(share) - len(done)) as advance:
        for count, seconds in measuring.measure(
            share, done, journal, name=args.data, max_lost=args.max_lost,
            still_ours=claim.check, stop=processes.stop_seen,
        ):  # fmt: skip
            labelling.note_time(args.out, count, seconds)
            advance(count)


def _target(
    args: argparse.Namespace, settings: TargetSettings, records: Sequence[Record]
) -> Target:
    mesh = rollout_mesh(args.tensor, devices=jax.local_devices())
    with progress.waiting(f"measuring {len(records)} questions"):
        return open_target(settings, mesh, lambda showing: Needs.of(showing, records))


# -------------------------------------------------------------------- the new set


def _publish(
    args: argparse.Namespace,
    origin: Mapping[str, Any],
    sound: Audited,
    entries: Sequence[Label | Rejected],
) -> None:
    """Writes everything that OUT gets; the meta file, which makes it a set, at the end."""
    lost = [entry for entry in entries if isinstance(entry, Rejected)]
    everyone = len(entries) + len(sound.rejected)
    check_share(args.data, [*lost, *sound.rejected], everyone, args.max_lost)
    if len(lost) == len(entries):
        boxes = (
            "; its records need targets, as sets with boxes have" if args.boxes != "grid" else ""
        )
        raise ValueError(f"{args.data}: no record has a label ({summary(lost)}){boxes}")
    report = labelled.report_of(sound.records, entries, sound.rejected)
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    plot(report, args.out / "report.png")
    labelling.sheet_of(sound.records, entries).save(args.out / "sheet.png")
    seconds = labelling.write_timing(args.out)
    about = labelling.selected(args.data) | {
        labelled.FROM: args.data,
        "by": args.target or None,
        "likelihoods": None if args.again is None else str(args.again.absolute()),
        labelled.LABELS: origin,
    }
    count = labelled.write_labelled(
        args.out, sound.records, entries, sound.rejected, about, args.max_lost
    )
    gone, unsuited = map(len, parted([*lost, *sound.rejected]))
    ties = f", {report['ties']['records']} of them tied with others" if args.target else ""
    took = "" if seconds is None else f"; {seconds:.2f} s a record"
    print(
        f"wrote {args.out}: {count} records, {gone} lost, {unsuited} unsuited (without a picture, "
        f"without a target box, videos, several pictures); labels cover "
        f"{report['size']['label']['mean']:.1%} of their pictures{ties}{took}"
    )
    for name, gain in report["gain"].items():
        if gain and gain["mean"] <= 0:
            before = {"whole": "the whole image as the crop", "without": "no crop"}[name]
            print(
                f"warning: with the best boxes the target finds its answers no likelier than with "
                f"{before} ({gain['mean']:.3f} nats on average), so these labels teach nothing; "
                "look at sheet.png, and whether the target can read the crops",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
