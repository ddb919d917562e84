"""The rollout engine compared with transformers' `generate`, and with itself without its parts.

    JAX_PLATFORMS=cpu python bench/rollout.py [--json FILE]

Both sides have the same machine, weights, prompts, pictures, tool and limits, and two threads. The
figures are medians of `--repeats` runs that alternate. Sampling differs, so single episodes differ,
but their kind does not: turns, crops and tokens of both sides are printed. Compilation is printed
separately and not part of the times.
"""

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch
from rich.console import Console
from rich.table import Table
from rollout_reference import Reference
from rollout_world import World, make_world, records

from lfpc_jax.model.config import TextConfig, VisionConfig
from lfpc_jax.model.layers import unstack
from lfpc_jax.model.tuning import tuning
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.rollout.programs import Programs
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.trajectory import Trajectory

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
VARIANTS: dict[str, dict[str, bool]] = {
    "engine": {},
    "without refilling": {"refill": False},
    "without shared prefixes": {"share_prefix": False},
}


def main() -> None:
    args = _parser().parse_args()
    torch.set_num_threads(2)
    world = make_world(*SIZES[args.size], slots=args.slots, chunk=args.chunk)
    reference = Reference(world)
    rules = Rules(episode_tokens=args.episode_tokens)
    figures = _episodes(world, reference, rules, args)
    figures["decode"] = [_decode(world, reference, rows, args) for rows in args.decode_rows]
    figures["decode_ratio"] = min(row["ratio"] for row in figures["decode"])
    _print(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="issue")
    parser.add_argument("--records", type=int, default=6)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=16, help="and the reference's batch")
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--episode-tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decode-rows", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--decode-steps", type=int, default=64)
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser


# ---------------------------------------------------------------- whole episodes


def _episodes(
    world: World, reference: Reference, rules: Rules, args: argparse.Namespace
) -> dict[str, Any]:
    asked = records(args.records)
    engines, compile_seconds = {}, {}
    for name, options in VARIANTS.items():
        engines[name] = Engine(world.cfg, world.dialogue, world.shapes, rules, **options)
        engines[name].load(world.params)
        start = time.perf_counter()
        engines[name].warm_up()
        compile_seconds[name] = time.perf_counter() - start
    speeds: dict[str, list[float]] = {name: [] for name in (*VARIANTS, "transformers")}
    done: dict[str, list[Trajectory]] = {name: [] for name in speeds}
    for repeat in range(args.repeats):
        for name, engine in engines.items():
            start = time.perf_counter()
            groups = list(engine.run(asked, rollouts=args.rollouts, seed=repeat))
            trajectories = [t for group in groups for t in group.trajectories]
            speeds[name].append(len(trajectories) / (time.perf_counter() - start))
            done[name] += trajectories
        torch.manual_seed(repeat)
        start = time.perf_counter()
        episodes = reference.run(asked, args.rollouts, rules, args.slots)
        speeds["transformers"].append(len(episodes) / (time.perf_counter() - start))
        done["transformers"] += [episode.trajectory() for episode in episodes]
        print(f"repeat {repeat + 1} of {args.repeats} done", flush=True)
    ratios = [a / b for a, b in zip(speeds["engine"], speeds["transformers"])]
    engine = engines["engine"]
    return {
        "episodes_ratio": statistics.median(ratios),
        "compilations_after_warmup": sum(len(e.slots.programs.late) for e in engines.values()),
        "occupancy": engine.stats.occupancy,
        "programs": len(engine.slots.programs.traces),
        "warm_up_seconds": compile_seconds,
        "episodes": {
            name: {"per_second": statistics.median(speeds[name]), **_kind(done[name])}
            for name in speeds
        },
        "prompts_prefilled": {name: e.stats.prompts for name, e in engines.items()},
    }


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


# ---------------------------------------------------------------- decode alone


def _decode(world: World, reference: Reference, rows: int, args: argparse.Namespace) -> dict:
    """Tokens a second after a prompt of 320, where no turn of either side stops."""
    n, shapes = args.decode_steps, replace(world.shapes, slots=rows, chunk=args.decode_steps)
    unstacked = tuning().unstacked
    programs = Programs(world.cfg, shapes, unstacked=unstacked)
    params = jax.jit(unstack)(world.params) if unstacked else world.params
    state = programs.empty()
    vocabulary = world.cfg.text.vocab
    stops, allowed = jnp.ones((2, vocabulary), jnp.uint8), jnp.ones(vocabulary, bool)
    ids = torch.randint(0, 256, (rows, PROMPT)).tolist()
    none: list[list] = [[] for _ in range(rows)]
    ours, theirs = [], []
    for repeat in range(args.repeats + 1):
        state = replace(
            state,
            stop=jnp.ones(rows, jnp.uint8),
            budget=jnp.full(rows, 10**6, jnp.int32),
            cache=replace(state.cache, length=jnp.full(rows, PROMPT, jnp.int32)),
        )
        start = time.perf_counter()
        state, drawn = programs.decode(
            params, state, stops, allowed, shapes.spans.fit(PROMPT + n, "ids"), Sampling()
        )
        jax.block_until_ready(drawn)
        mine = time.perf_counter() - start
        long = _timed(reference, ids, none, n + 1)
        short = _timed(reference, ids, none, 1)
        if repeat:  # the first compiles
            ours.append(rows * n / mine)
            theirs.append(rows * n / (long - short))
    return {
        "rows": rows,
        "tokens_per_second": statistics.median(ours),
        "transformers_tokens_per_second": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs)),
    }


def _timed(reference: Reference, ids: list, none: list, new: int) -> float:
    start = time.perf_counter()
    reference.generate(ids, none, new, min_new_tokens=new, eos_token_id=None)
    return time.perf_counter() - start


def _print(figures: dict[str, Any]) -> None:
    console = Console()
    console.width = max(console.width, 110)
    table = Table(title="Whole episodes")
    for name in ("", "episodes/s", "turns", "crops", "sampled", "ids"):
        table.add_column(name, justify="right")
    for name, row in figures["episodes"].items():
        parts = [f"{row[key]:.2f}" for key in ("per_second", "turns", "crops", "sampled", "ids")]
        table.add_row(name, *parts)
    console.print(table)
    table = Table(title=f"Decode after a prompt of {PROMPT}, tokens/s")
    for name in ("rows", "engine", "transformers", "ratio"):
        table.add_column(name, justify="right")
    for row in figures["decode"]:
        speeds = (row["tokens_per_second"], row["transformers_tokens_per_second"])
        table.add_row(str(row["rows"]), *(f"{x:,.0f}" for x in speeds), f"{row['ratio']:.2f}")
    console.print(table)
    console.print(
        f"episodes_ratio {figures['episodes_ratio']:.2f}, decode_ratio "
        f"{figures['decode_ratio']:.2f}, occupancy {figures['occupancy']:.2f}, "
        f"{figures['programs']} programs warmed up in "
        f"{figures['warm_up_seconds']['engine']:.0f} s, compilations after warm-up "
        f"{figures['compilations_after_warmup']}"
    )


if __name__ == "__main__":
    main()
