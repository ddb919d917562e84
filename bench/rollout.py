"""The rollout engine compared with transformers' `generate`, and with itself without its parts.

    JAX_PLATFORMS=cpu python bench/rollout.py [--json FILE]

Both sides have the same machine, weights, prompts, pictures, tool and limits, and two threads.
Ratios are medians of `--repeats` runs that alternate. Sampling differs, so single episodes differ,
but their kind does not: turns, crops and tokens of both sides are printed. Compilation is printed
separately and not part of the times.

The loop over transformers is slow and its speed does not depend on how many records it gets, so in
each repeat it rolls out as many records as fill one batch, other ones each time; the engine rolls
out all. With images of 1,024 tokens its batch is `--large-batch`. The engine also runs without
refilling, with copies of prompts and without sharing them, `--variant-repeats` times. `--parts`
measures only some of this:

    decode_shared_ratio   decode tokens a second against an engine with a copy of the prompt in
                          every row, for each of `--shared` (rows / rows of a prompt / its ids)
    episodes_ratio        episodes a second against the loop over transformers, 256 visual tokens
    episodes_ratio_1024   the same with 1,024 visual tokens and larger groups
    decode_ratio          decode tokens a second against transformers, the least of `--decode-rows`
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rollout_decode import Case, against_copies, against_transformers
from rollout_reference import Reference
from rollout_world import World, as_configured, make_world, records, with_images

from lfpc_jax.model.config import TextConfig, VisionConfig
from lfpc_jax.rollout.asked import Scheduling
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.sizing import in_buckets, sizes
from lfpc_jax.trajectory import Record, Trajectory

SIZES = {
    "issue": (
        TextConfig(8, 512, 8, 2, 1408, 4096, mrope_section=(8, 12, 12)),
        VisionConfig(4, 256, 4, 512, 512, (1, 3)),
    ),
    "tiny": (
        TextConfig(2, 128, 4, 2, 256, 1024, mrope_section=(4, 6, 6)),
        VisionConfig(2, 64, 2, 96, 128, (1,)),
    ),
}
PROMPT = 320
KEYS = (
    "decode_shared_ratio",
    "episodes_ratio",
    "episodes_ratio_1024",
    "decode_ratio",
    "occupancy",
    "compilations_after_warmup",
    "warm_up_seconds",
    "seconds",
)
PARTS = ("episodes", "large", "shared", "decode")


def main() -> None:
    args = _parser().parse_args()
    torch.set_num_threads(2)
    begun = time.perf_counter()
    rules = Rules(episode_tokens=args.episode_tokens)
    world = make_world(*SIZES[args.size], slots=args.slots, chunk=args.chunk)
    reference = Reference(world)
    asked = records(args.records)
    parts, steps, repeats = set(args.parts), args.decode_steps, args.repeats
    figures: dict[str, Any] = {}
    if "episodes" in parts:
        variants = args.variant_repeats > 0
        figures |= _episodes(
            world, reference, rules, asked, args.rollouts, args, batch=args.slots, variants=variants
        )
    if "large" in parts:
        large = with_images(world, 1024, capacity=2304)
        figures["large"] = _episodes(
            large,
            Reference(large),
            rules,
            records(args.large_records, seed=1, side=896),
            args.large_rollouts,
            args,
            batch=args.large_batch,
            variants=False,
        )
        figures["episodes_ratio_1024"] = figures["large"]["episodes_ratio"]
    if whole := [each["late"] for each in (figures, figures.get("large", {})) if "late" in each]:
        figures["compilations_after_warmup"] = sum(whole)
    if "shared" in parts:
        figures["decode_shared"] = [
            against_copies(world, Case.parsed(case, steps), repeats) for case in args.shared
        ]
        figures["decode_shared_ratio"] = [row["ratio"] for row in figures["decode_shared"]]
        print("decode against copies done", flush=True)
    if "decode" in parts:
        cases = [Case(rows, args.rollouts, PROMPT, steps) for rows in args.decode_rows]
        figures["decode"] = [
            against_transformers(world, reference, case, repeats) for case in cases
        ]
        figures["decode_ratio"] = min(row["ratio"] for row in figures["decode"])
    figures["seconds"] = time.perf_counter() - begun
    _print(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="issue")
    parser.add_argument("--records", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=16, help="and the reference's batch")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--episode-tokens", type=int, default=256)
    parser.add_argument("--large-records", type=int, default=2)
    parser.add_argument("--large-rollouts", type=int, default=16)
    parser.add_argument("--large-batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant-repeats", type=int, default=0)
    parser.add_argument("--shared", nargs="+", default=["32/8/320", "32/16/1088", "32/16/4160"])
    parser.add_argument("--decode-rows", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--decode-steps", type=int, default=64)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


# ---------------------------------------------------------------- whole episodes


@dataclass(frozen=True)
class _Variant:
    """An engine, and how it schedules."""

    engine: Engine
    how: Scheduling


def _episodes(
    world: World,
    reference: Reference,
    rules: Rules,
    asked: Sequence[Record],
    rollouts: int,
    args: argparse.Namespace,
    *,
    batch: int,
    variants: bool,
) -> dict[str, Any]:
    shapes = as_configured(world.shapes, rules, rollouts)
    engine, warm_up_seconds = _warm(Engine(world.cfg, world.dialogue, shapes, rules), world, asked)
    plain = engine.scheduling
    ways = {"engine": _Variant(engine, plain)}
    if variants:
        ways["without refilling"] = _Variant(engine, replace(plain, refill=False))
        old = replace(shapes, prefixes=shapes.slots)
        copying = Engine(world.cfg, world.dialogue, old, rules, copies=True)
        copying, _ = _warm(copying, world, asked)
        ways["copies of prompts"] = _Variant(copying, plain)
        ways["without shared prefixes"] = _Variant(copying, replace(plain, share_prefix=False))
    ran: dict[str, _Ran] = {name: _Ran() for name in (*ways, "transformers")}
    for repeat in range(args.repeats):
        for name, way in ways.items():
            if name == "engine" or repeat < args.variant_repeats:
                ran[name].add(_rolled_out(way, asked, rollouts, repeat), way.engine)
        ran["transformers"].add(_generated(reference, asked, rollouts, rules, batch, repeat))
        print(f"repeat {repeat + 1} of {args.repeats} done", flush=True)
    ours, theirs = ran["engine"].speeds, ran["transformers"].speeds
    return {
        "episodes_ratio": statistics.median(a / b for a, b in zip(ours, theirs)),
        "late": sum(len(way.engine.slots.programs.late) for way in ways.values()),
        "occupancy": ran["engine"].occupancy,
        "programs": len(engine.slots.programs.traces),
        "warm_up_seconds": warm_up_seconds,
        "episodes": {name: way.figures() for name, way in ran.items()},
        "prompts_prefilled": {name: ran[name].prompts for name in ways},
    }


def _warm(engine: Engine, world: World, asked: Sequence[Record]) -> tuple[Engine, float]:
    engine.load(world.params)
    start = time.perf_counter()
    engine.warm_up(in_buckets(sizes(world.dialogue, asked), engine.shapes))
    return engine, time.perf_counter() - start


class _Ran:
    """What one side rolled out: its speeds, its trajectories and its engine's counts."""

    def __init__(self) -> None:
        self.speeds: list[float] = []
        self.trajectories: list[Trajectory] = []
        self.prompts, self.occupancy = 0, 0.0

    def add(self, ran: tuple[list[Trajectory], float], engine: Engine | None = None) -> None:
        trajectories, seconds = ran
        self.speeds.append(len(trajectories) / seconds)
        self.trajectories += trajectories
        if engine is not None:
            self.prompts, self.occupancy = engine.stats.prompts, engine.stats.occupancy

    def figures(self) -> dict[str, float]:
        return {"per_second": statistics.median(self.speeds), **_kind(self.trajectories)}


def _rolled_out(
    way: _Variant, asked: Sequence[Record], rollouts: int, seed: int
) -> tuple[list[Trajectory], float]:
    way.engine.scheduling = way.how
    way.engine.stats = type(way.engine.stats)(way.engine.shapes.slots)
    start = time.perf_counter()
    groups: Iterable = list(way.engine.run(asked, rollouts=rollouts, seed=seed))
    return [t for group in groups for t in group.trajectories], time.perf_counter() - start


def _generated(
    reference: Reference,
    asked: Sequence[Record],
    rollouts: int,
    rules: Rules,
    batch: int,
    repeat: int,
) -> tuple[list[Trajectory], float]:
    """One batch of episodes, of the next records at every repeat."""
    together = max(1, batch // rollouts)
    first = repeat * together
    chosen = [asked[(first + number) % len(asked)] for number in range(together)]
    torch.manual_seed(repeat)
    start = time.perf_counter()
    episodes = reference.run(chosen, min(rollouts, batch), rules, batch)
    seconds = time.perf_counter() - start
    return [episode.trajectory() for episode in episodes], seconds


def _kind(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """The mean turns, crops and tokens of an episode, and the share of each end."""
    n, ends = len(trajectories), Counter(t.end for t in trajectories)
    turns = sum(len(t.turns) for t in trajectories)
    return {
        "turns": turns / n,
        "crops": sum(turn.crop is not None for t in trajectories for turn in t.turns) / n,
        "sampled": sum(int(t.sampled.sum()) for t in trajectories) / n,
        "ids": sum(len(t.ids) for t in trajectories) / n,
        **{f"ended {end}": count / n for end, count in ends.items()},
    }


# ---------------------------------------------------------------- what is printed


def _print(figures: dict[str, Any]) -> None:
    console = Console()
    console.width = max(console.width, 110)
    for title, part in (("256", figures), ("1,024", figures.get("large", {}))):
        if "episodes" not in part:
            continue
        table = Table(title=f"Whole episodes, {title} visual tokens")
        for name in ("", "episodes/s", "turns", "crops", "sampled", "ids"):
            table.add_column(name, justify="right")
        for name, row in part["episodes"].items():
            keys = ("per_second", "turns", "crops", "sampled", "ids")
            table.add_row(name, *(f"{row[key]:.2f}" for key in keys))
        console.print(table)
    table = Table(title="Decode, tokens/s")
    for name in ("rows", "prompt", "engine", "against", "tokens/s", "ratio"):
        table.add_column(name, justify="right")
    for row in figures.get("decode_shared", ()):
        rows = f"{row['rows']} in groups of {row['members']}"
        speeds = row["tokens_per_second"], row["copies_tokens_per_second"]
        _decode_row(table, rows, row["prompt"], "copies", speeds, row["ratio"])
    for row in figures.get("decode", ()):
        speeds = row["tokens_per_second"], row["transformers_tokens_per_second"]
        _decode_row(table, str(row["rows"]), PROMPT, "transformers", speeds, row["ratio"])
    if table.row_count:
        console.print(table)
    for name in KEYS:
        if name in figures:
            several = figures[name] if isinstance(figures[name], list) else [figures[name]]
            console.print(f"{name:26}", ", ".join(f"{value:.2f}" for value in several))


def _decode_row(
    table: Table, rows: str, prompt: int, against: str, speeds: tuple[float, float], ratio: float
) -> None:
    ours, theirs = speeds
    table.add_row(rows, f"{prompt:,}", f"{ours:,.0f}", against, f"{theirs:,.0f}", f"{ratio:.2f}")


if __name__ == "__main__":
    main()
