"""The whole method in a small world, on two CPU cores: data, selection, both stages, evaluation.

    demo.py [--out runs/demo] [--seeds 0] [--arms baseline stage1 stage2]
    demo.py --out runs/reproduce --arms all --seeds 0 1 2 --temperatures 0 1 --write docs

It prints and runs ordinary commands of launch/, --jobs of them at once. If it is interrupted, rerun
the same command to resume: commands that are done are not run again. At the end it writes a table
and OUT/report.html with every curve and episode, and with --write DIR also DIR/results.md,
results.json and pictures.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lfpc_jax.cli.flags import positive
from lfpc_jax.data import layout
from lfpc_jax.evaluation import claims
from lfpc_jax.run import steps
from lfpc_jax.run.demo_plan import ARMS, HARSHEST, Demo, in_order
from lfpc_jax.trajectory import Record


def main(argv: Sequence[str] | None = None) -> int:
    typed = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(typed)
    if not Path(args.warm).is_dir():
        print(
            f"error: --warm {args.warm}: no such folder; `make warmstart` makes it", file=sys.stderr
        )
        return 1
    demo = demo_of(args)
    planned = demo.plan()
    try:
        identities = steps.check(planned, demo.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    start = time.monotonic()
    if code := steps.run(planned, demo.out, identities, jobs=args.jobs):
        return code
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes. Look at {demo.out / 'report.html'}")
    if args.write:
        compared = {temperature: demo.compared(temperature) for temperature in demo.temperatures}
        claims.write_page(args.write, _about(demo, typed), compared)
        print(f"wrote {args.write / 'results.md'}, results.json and pictures")
    print("What to type next:")
    for words in _next(demo):
        print(f"  python launch/{shlex.join(words)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument("--arms", nargs="+", default=["baseline", "stage1", "stage2"],
                        choices=("all", *ARMS))  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--temperatures", nargs="+", type=int, default=[0], help="of the evaluations"
    )
    parser.add_argument(
        "--steps", type=int, help="training steps of every arm; default: the configs'"
    )
    parser.add_argument("--scenes", type=int, default=480, help="scenes to train on")
    parser.add_argument(
        "--questions", type=int, default=200, help="held-out questions to evaluate on"
    )
    parser.add_argument(
        "--jobs",
        type=positive,
        default=2 if os.environ.get("JAX_PLATFORMS") == "cpu" else 1,
        help="commands to run at the same time; an accelerator has room for one",
    )
    parser.add_argument(
        "--warm",
        default="configs/micro/warm",
        metavar="DIR",
        help="the model that every arm begins from",
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="also write results.md, results.json and pictures to DIR",
    )
    return parser


def demo_of(args: argparse.Namespace) -> Demo:
    return Demo(
        args.out,
        arms=tuple(in_order(args.arms)),
        seeds=tuple(args.seeds),
        temperatures=tuple(args.temperatures),
        steps=args.steps or 0,
        scenes=args.scenes,
        questions=args.questions,
        warm=args.warm,
    )


def _about(demo: Demo, typed: Sequence[str]) -> str:
    return (
        f"Written by `{shlex.join(('launch/demo.py', *typed))}`, which [the small world](demo.md) "
        f"describes: {demo.questions:,} held-out questions, seeds "
        f"{', '.join(map(str, demo.seeds))}."
    )


def _next(demo: Demo) -> Iterator[tuple[str, ...]]:
    """Commands to try on the results."""
    arm = "stage2" if "stage2" in demo.arms else demo.arms[-1]
    run, data = f"{demo.out / arm}-{demo.seeds[0]}", demo.out / "data"
    record = next(row for row in layout.read(data / "heldout") if isinstance(row, Record))
    yield ("ask.py", "--model", run, "--image", f"{record.picture.path}",
           "--question", record.question, "--longest-side", f"{HARSHEST}")  # fmt: skip
    yield "convert.py", "to-hf", run, "exported"
    yield ("train.py", "--config", "stage1.py:micro", "--run", "runs/mine",
           "--data.train", f"{data / 'answer'}", "--data.validation", f"{data / 'blurred'}",
           "--optimizer.learning_rate", "1e-4")  # fmt: skip
