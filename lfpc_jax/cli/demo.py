"""The whole method in a small world, on two CPU cores: data, selection, both stages, evaluation.

    demo.py [--out runs/demo] [--seeds 0] [--arms baseline stage1 stage2]
    demo.py --out runs/reproduce --arms all --seeds 0 1 2 --temperatures 0 1 --write docs

It runs the commands that one would type, --jobs of them at once, and prints each before. What is
done is not done again: killed, the same command goes on where it was. In the end there is a table,
OUT/report.html with every curve and episode, and with --write DIR also DIR/results.md,
results.json and pictures.
"""

import argparse
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from lfpc_jax.cli import steps
from lfpc_jax.cli.compare import parsed_change
from lfpc_jax.cli.flags import positive
from lfpc_jax.cli.new_model import CROP_TOKENS
from lfpc_jax.cli.steps import Step
from lfpc_jax.data import layout
from lfpc_jax.run.config_files import load_config
from lfpc_jax.trajectory import Record

WARM = "configs/micro/warm"
BLURRED, SHARP = 4, 64
"""Visual tokens of the image: as few as selection goes down to, and all."""
HARSHEST = 56
"""Pixels of a side where no mark is left to see: the end of selection, and what is validated on."""
VALIDATED = 64
"""Scenes, as many as the configs have in `validation_records`."""
NESTED = ("1", "1.3")
"""Boxes around a mark, in its sides: what a person would draw who wants it tight."""


ARMS = {
    "baseline": "baseline.py:micro",
    "stage1": "stage1.py:micro",
    "control": "ablations/no_iou.py:micro",
    "stage2": "stage2.py:micro",
    "mixed": "mixed.py:micro",
    "hard": "strategies/hard.py:micro",
    "random": "strategies/random.py:micro",
    "conditional_iou": "ablations/conditional_iou.py:micro",
    "no_threshold": "ablations/no_threshold.py:micro",
}
"""The configs by the arms' names, each after the arm that it goes on from. Stage II is compared
with `control`, which Table 10 calls no reward for boxes."""
FORMER = {
    "baseline": ("micro/baseline.py",),
    "stage1": ("micro/stage1.py",),
    "control": ("micro/control.py",),
    "stage2": ("micro/stage2.py",),
    "mixed": ("micro/stage1.py", "--rewards.grounding", "1"),
    "hard": ("micro/stage1.py",),
    "random": ("micro/stage1.py",),
    "conditional_iou": ("micro/stage2.py", "--rewards.boxes.w", "1"),
    "no_threshold": (
        "micro/stage2.py", "--rewards.boxes.w", "1", "--rewards.boxes.tau", "none",
    ),
}  # fmt: skip
"""How earlier versions gave the same settings, so that their folders can be resumed."""
SHOWN = ("baseline", "stage1", "stage2")
CLAIMS = {
    ("accuracy", "warm", "stage1"): "up",
    ("calls", "warm", "stage1"): "up",
    ("overlap", "warm", "stage1"): "up",
    ("drop", "3*baseline", "stage1"): "up",
    ("iou", "control", "stage2"): "up",
    ("area", "control", "stage2"): "down",
    ("accuracy", "control", "stage2"): "not down",
}
"""What the paper has found, as changes for compare.py."""
_HARDLY = 0.02
"""A loss that is hardly one: "not down" is shown if the interval leaves no greater."""
_LEGEND = f"Not down: by {100 * _HARDLY:g} points at most. Unclear: the interval leaves both open."


def main(argv: Sequence[str] | None = None) -> int:
    typed = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(typed)
    if not Path(args.warm).is_dir():
        print(
            f"error: --warm {args.warm}: no such folder; `make warmstart` makes it", file=sys.stderr
        )
        return 1
    planned = plan(args)
    try:
        identities = steps.check(planned, args.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    begun = time.monotonic()
    if code := steps.run(planned, args.out, identities, jobs=args.jobs):
        return code
    print(f"\n{(time.monotonic() - begun) / 60:.1f} minutes. Look at {args.out / 'report.html'}")
    if args.write:
        _publish(args, shlex.join(("launch/demo.py", *typed)))
    _next(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    parser.add_argument("--arms", nargs="+", default=[*SHOWN], choices=("all", *ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--temperatures", nargs="+", type=int, default=[0], help="of evaluations")
    parser.add_argument("--steps", type=int, help="of every arm, in place of the configs'")
    parser.add_argument("--scenes", type=int, default=480, help="to train on")
    parser.add_argument("--questions", type=int, default=200, help="held out")
    parser.add_argument(
        "--jobs",
        type=positive,
        default=2 if os.environ.get("JAX_PLATFORMS") == "cpu" else 1,
        help="commands at once; 2 with JAX_PLATFORMS=cpu, an accelerator has room for one",
    )
    parser.add_argument("--warm", default=WARM, metavar="DIR", help="where every arm begins")
    parser.add_argument("--write", type=Path, metavar="DIR", help="results for a document")
    return parser


def plan(args: argparse.Namespace) -> list[Step]:
    """Every command, in order."""
    arms = _arms(args)
    planned = [*_data(args, arms), *_evaluations(args, "warm", args.warm)]
    for seed in args.seeds:
        planned += [_training(args, arm, seed) for arm in arms]
        for arm in arms:
            planned += _evaluations(args, f"{arm}-{seed}", f"{args.out / arm}-{seed}")
    for step in _tables(args, arms):
        planned.append(replace(step, after=tuple(before.name for before in planned), gathers=True))
    return planned


def _arms(args: argparse.Namespace) -> list[str]:
    """The arms asked for and those that they go on from, in an order in which they can train."""
    wanted = set(ARMS) if "all" in args.arms else set(args.arms)
    wanted |= {begins_at(name) for name in wanted} - {""}
    return [name for name in ARMS if name in wanted]


@cache
def data_of(arm: str) -> str:
    """The set that an arm trains on, as its config names it."""
    [source] = load_config(ARMS[arm]).data.train
    return Path(source.path).name


@cache
def begins_at(arm: str) -> str:
    """The arm that an arm goes on from; empty if that is the warm start."""
    name = Path(load_config(ARMS[arm]).model.path).name.removesuffix("-0")
    return name if name in ARMS else ""


def _data(args: argparse.Namespace, arms: Sequence[str]) -> Iterator[Step]:
    data = args.out / "data"
    scenes = {
        "world": ("train", "--count", f"{args.scenes}"),
        "heldout": ("heldout", "--count", f"{args.questions}"),
        "blurred": ("heldout", "--count", f"{VALIDATED}", "--longest-side", f"{HARSHEST}"),
    }
    for name, which in scenes.items():
        yield Step(
            f"data {name}",
            ("synthesize.py", f"{data / name}", "--world", "micro", "--nested", *NESTED,
             "--split", *which, "--overwrite"),
        )  # fmt: skip
    for strategy in dict.fromkeys(map(data_of, arms)):
        if strategy != "world":
            cache = ("--cache", f"{args.out / 'compiled'}")
            asked = (
                ("--model", args.warm, "--search", "bisect", "--exact", *cache)
                if strategy == "answer"
                else ()
            )
            yield Step(
                f"select {strategy}",
                ("select_resolution.py", f"{data / 'world'}", f"{data / strategy}", *asked,
                 "--strategy", strategy, "--image-tokens", f"{SHARP}", "--harshest", f"{HARSHEST}",
                 "--turn-tokens", "24", "--slots", "64"),
                after=("data world",),
                model=args.warm if asked else "",
            )  # fmt: skip


def _training(args: argparse.Namespace, arm: str, seed: int) -> Step:
    data, before = args.out / "data", begins_at(arm)
    start = f"{args.out / before}-{seed}" if before else args.warm
    length = ("--steps", f"{args.steps}") if args.steps else ()
    words = (
        *("--run", f"{args.out / arm}-{seed}", "--seed", f"{seed}"),
        *("--model.path", start, "--data.train", f"{data / data_of(arm)}"),
        *("--data.validation", f"{data / 'blurred'}", "--cache", f"{args.out / 'compiled'}"),
        *length,
    )
    after = ["data world" if data_of(arm) == "world" else f"select {data_of(arm)}", "data blurred"]
    if before:
        after.append(f"train {before}-{seed}")
    file, *overrides = FORMER[arm]
    return Step(
        f"train {arm}-{seed}",
        ("train.py", "--config", ARMS[arm], *words),
        tuple(after),
        model="" if before else args.warm,
        formerly=("train.py", "--config", file, *words, *overrides),
    )


def _evaluations(args: argparse.Namespace, name: str, model: str) -> Iterator[Step]:
    for temperature in args.temperatures:
        out = args.out / "evaluated" / f"temperature-{temperature}" / name
        yield Step(
            f"evaluate {name} temperature {temperature}",
            ("evaluate.py", f"{out}", "--model", model,
             "--data", f"micro={args.out / 'data' / 'heldout'}", "--convention", "percent",
             "--image-tokens", f"{BLURRED}", f"{SHARP}", "--crop-tokens", f"{CROP_TOKENS}",
             "--diagnose", "noise", "--temperature", f"{temperature}", "--max-turns", "4",
             "--turn-tokens", "128", "--episode-tokens", "128", "--slots", "64",
             "--cache", f"{args.out / 'compiled'}"),
            after=("data heldout", *(() if name == "warm" else (f"train {name}",))),
            model=model if name == "warm" else "",
        )  # fmt: skip


def _tables(args: argparse.Namespace, arms: Sequence[str]) -> Iterator[Step]:
    """Of all that was trained and measured."""
    for temperature in args.temperatures:
        at = args.out / "evaluated" / f"temperature-{temperature}"
        words = ["compare.py", f"{args.out / f'compared-{temperature}'}"]
        words += ["--arm", "warm", f"{at / 'warm'}"]
        for arm in arms:
            words += ["--arm", arm, *(f"{at / f'{arm}-{seed}'}" for seed in args.seeds)]
        for change in CLAIMS:
            if {name.rpartition("*")[2] for name in change[1:]} <= {"warm", *arms}:
                words += ["--change", *change]
        yield Step(f"compare temperature {temperature}", tuple(words))
    runs = [f"{args.out / arm}-{seed}" for seed in args.seeds for arm in arms]
    yield Step("report", ("report.py", *runs, "--out", f"{args.out / 'report.html'}"))


def _publish(args: argparse.Namespace, command: str) -> None:
    """A page with all that was compared, its numbers and pictures."""
    args.write.mkdir(parents=True, exist_ok=True)
    found = {}
    page = [
        f"# Results\n\nWritten by `{command}`, which [the small world](demo.md) describes: "
        f"{args.questions:,} held-out questions, seeds {', '.join(map(str, args.seeds))}. "
        "Intervals are 95%, over questions; numbers and each seed's values are in "
        "[results.json](results.json)."
    ]
    for temperature in args.temperatures:
        compared = args.out / f"compared-{temperature}"
        picture = f"results-{temperature}.png"
        shutil.copy(compared / "comparison.png", args.write / picture)
        numbers = json.loads((compared / "comparison.json").read_text())
        found[f"temperature {temperature}"] = numbers
        page += [
            f"## {'Greedy' if temperature == 0 else f'Temperature {temperature}'}",
            f"![Arms side by side]({picture})",
            (compared / "comparison.md").read_text().strip(),
            "### What the paper found, and what this shows",
            "\n".join(["| change | where | expected | shown |", "|---|---|---|---|",
                       *_verdicts(numbers)]),
            _LEGEND,
        ]  # fmt: skip
    (args.write / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    (args.write / "results.md").write_text("\n\n".join(page) + "\n")
    print(f"wrote {args.write / 'results.md'}, results.json and pictures")


def _verdicts(numbers: dict) -> Iterator[str]:
    """A row for each claim at each budget: yes or no where the interval leaves no doubt."""
    for at, one in numbers.items():
        for (measure, before, after), expected in CLAIMS.items():
            change = str(parsed_change(measure, before, after))
            if (found := one["changes"].get(change)) is None:
                continue
            low, high = found["estimate"]["low"], found["estimate"]["high"]
            if expected == "down":
                low, high = -high, -low
            yes = low > (-_HARDLY if expected == "not down" else 0)
            shown = "yes" if yes else "no" if high < 0 else "unclear"
            yield f"| {change} | {at} | {expected} | {shown} |"


def _next(args: argparse.Namespace) -> None:
    arms = _arms(args)
    best = "stage2" if "stage2" in arms else arms[-1]
    last = f"{args.out / best}-{args.seeds[0]}"
    data = args.out / "data"
    record = next(one for one in layout.read(data / "heldout") if isinstance(one, Record))
    commands = [
        ("ask.py", "--model", last, "--image", f"{record.picture.path}", "--question",
         record.question, "--longest-side", f"{HARSHEST}"),
        ("convert.py", "to-hf", last, "exported"),
        ("train.py", "--config", "stage1.py:micro", "--run", "runs/mine", "--data.train",
         f"{data / 'answer'}", "--data.validation", f"{data / 'blurred'}",
         "--optimizer.learning_rate", "1e-4"),
    ]  # fmt: skip
    print("What to type next:")
    for words in commands:
        print(f"  python launch/{shlex.join(words)}")
