"""The whole method in a small world, on two CPU cores: data, selection, both stages, evaluation.

    lfpc demo [--out runs/demo] [--seeds 0] [--arms baseline stage1 stage2]
    lfpc demo --out runs/reproduce --arms all --seeds 0 1 2 --temperatures 0 1 --write docs
    lfpc demo --system cropvlm [--arms tight outside_fitted sft by_accuracy by_likelihood]

With --system cropvlm it is the second system's: labels by a target model, crop networks that
imitate them, and both rewards.

It prints and runs ordinary commands, --jobs of them at once. If it is interrupted, rerun
the same command to resume: commands that are done are not run again. At the end it writes a table
and OUT/report.html with every curve and episode, and with --write DIR also DIR/results.md,
results.json and pictures.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lfpc_jax import stopping
from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.demo import USUAL, parser
from lfpc_jax.evaluation import claims
from lfpc_jax.run import cropvlm_plan, demo_plan, steps
from lfpc_jax.run.commands import typed
from lfpc_jax.run.cropvlm_plan import CropDemo
from lfpc_jax.run.demo_plan import Demo
from lfpc_jax.run.models import located


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    return command.run(partial(_run, args, words))


def _run(args: argparse.Namespace, words: Sequence[str]) -> int:
    demo = demo_of(args)
    planned = demo.plan()
    identities = steps.check(planned, demo.out)
    start = time.monotonic()
    code = steps.run(planned, demo.out, identities, jobs=args.jobs)
    if stopping.told.is_set():
        return command.stopped(demo.out)
    if code:
        return code
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes. Look at {demo.out / 'report.html'}")
    if args.write:
        compared = {temperature: demo.compared(temperature) for temperature in demo.temperatures}
        page: dict[str, Any] = {}
        if isinstance(demo, CropDemo):
            over = "seeds and questions" if len(demo.seeds) > 1 else "questions"
            page = {"claims": claims.CROPVLM_CLAIMS, "ranks": claims.CROPVLM_RANKS,
                    "name": "cropvlm_results", "over": over}  # fmt: skip
        claims.write_page(args.write, _about(demo, words), compared, **page)
        name = page.get("name", "results")
        print(f"wrote {args.write / f'{name}.md'}, {name}.json and pictures")
    print("What to type next:")
    for tried in demo.next_commands():
        print(f"  {typed(tried)}")
    return 0


def demo_of(args: argparse.Namespace) -> Demo | CropDemo:
    """Raises ValueError for what the chosen system does not have."""
    usual = USUAL[args.system]
    arms = getattr(args, "arms", usual.arms)
    if unknown := set(arms) - {"all", *usual.known}:
        known = ", ".join(usual.known)
        raise ValueError(f"--arms {' '.join(unknown)}: --system {args.system} has {known}")
    made = {
        "seeds": tuple(args.seeds),
        "steps": args.steps or 0,
        "scenes": args.scenes,
        "questions": args.questions,
        "warm": getattr(args, "warm", usual.warm),
    }
    out = getattr(args, "out", Path(usual.out))
    for flag, needed in ("warm", made["warm"]), ("target", args.target):
        if not located(Path(needed)).is_dir() and (flag == "warm" or args.system == "cropvlm"):
            raise ValueError(f"--{flag} {needed}: no such folder; `make {usual.made_by}` makes it")
    if args.system == "cropvlm":
        if args.temperatures != [0]:
            raise ValueError("--temperatures: crop networks are evaluated greedily; leave it out")
        return CropDemo(out, arms=tuple(cropvlm_plan.in_order(arms)), target=args.target, **made)
    temperatures = tuple(args.temperatures)
    return Demo(out, arms=tuple(demo_plan.in_order(arms)), temperatures=temperatures, **made)


def _about(demo: Demo | CropDemo, words: Sequence[str]) -> str:
    return (
        f"Written by `{typed(('demo.py', *words))}`, which [the small world](demo.md) "
        f"describes: {demo.questions:,} held-out questions, seeds "
        f"{', '.join(map(str, demo.seeds))}."
    )


if __name__ == "__main__":
    sys.exit(main())
