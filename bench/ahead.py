"""What `rollout.ahead` is worth: steps of episodes with a long tail of lengths, one after another.

    JAX_PLATFORMS=cpu python bench/ahead.py [--json FILE]

Every episode samples as many tokens as a budget that is drawn from a log-normal distribution, the
same ones with `ahead` 0 and 1. The weights stay as they are, and no time is spent on updates. The
figures are medians of `--repeats` runs that alternate, and the occupancy is the share of slots and
steps that sampled.

What updates learn from such episodes is another matter. The demo compares Stage I with and without
it, and this tells its rollouts apart:

    lfpc demo --out runs/ahead --arms stage1 ahead --seeds 0 1 2
    python bench/ahead.py --runs runs/ahead
"""

import argparse
import json
import statistics
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rollout import SIZES
from rollout_world import _ANSWER, _HEAD, make_world, records

from lfpc_jax.rollout import engine as engine_module
from lfpc_jax.rollout import stream as stream_module
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules, rollout_key
from lfpc_jax.rollout.scheduler import Scheduler
from lfpc_jax.rollout.stream import EpisodeStream

_FROM = 4
_TOLD = (
    "time/rollout",
    "rollout/occupancy",
    "rollout/idle_ended",
    "rollout/idle_replies",
    "rollout/idle_free",
    "update/staleness",
    "update/sampler_apart",
)


class Scripted(Scheduler):
    """Ends every episode at its budget of sampled tokens."""

    median, spread = 32.0, 1.0

    def _add(self, *given: Any) -> None:
        before = {*self.groups_left}
        super()._add(*given)
        for episode in self.groups_left.keys() - before:
            seed = rollout_key(1, episode.opening.record.id, episode.rollout)
            drawn = np.random.default_rng(seed).lognormal(np.log(self.median), self.spread)
            budget = int(np.clip(drawn, 1, self.shapes.own_capacity - 1))
            episode.rules = replace(episode.rules, turn_tokens=budget, episode_tokens=budget)


def main() -> None:
    args = _parser().parse_args()
    if args.runs:
        _tell(args.runs)
        return
    Scripted.median, Scripted.spread = args.median, args.spread
    engine_module.Scheduler = stream_module.Scheduler = Scripted  # type: ignore[misc]
    world = make_world(*SIZES[args.size], slots=args.slots, chunk=args.chunk)
    ends = (_HEAD, _ANSWER, "<|im_end|>", "<|endoftext|>")  # so that budgets alone end a turn
    engine = Engine(world.cfg, world.dialogue, world.shapes, Rules(max_turns=1, banned=ends))
    engine.load(world.params)
    engine.warm_up()
    runs: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    for _ in range(args.repeats):
        for ahead, results in runs.items():
            results.append(_run(engine, ahead, args))
    figures: dict[str, Any] = {
        f"ahead {ahead}": {name: statistics.median(r[name] for r in of) for name in of[0]}
        for ahead, of in runs.items()
    }
    ratios = [b["episodes_a_second"] / a["episodes_a_second"] for a, b in zip(runs[0], runs[1])]
    figures["ahead_ratio"] = statistics.median(ratios)
    figures["late"] = len(engine.slots.programs.late)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="issue")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=2, help="of a step")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=8)
    parser.add_argument("--median", type=float, default=32, help="tokens of an episode")
    parser.add_argument("--spread", type=float, default=1.0, help="of their logarithm")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="of the demo, to tell apart")
    return parser


def _run(engine: Engine, ahead: int, args: argparse.Namespace) -> dict[str, float]:
    """All steps, one collected after another; each begins `ahead` further ones."""
    asked = records(args.steps * args.prompts)
    steps = [asked[at : at + args.prompts] for at in range(0, len(asked), args.prompts)]
    before, begun = deepcopy(engine.stats), time.perf_counter()
    stream, added, episodes = EpisodeStream(engine, rollouts=args.rollouts), 0, 0
    for step in range(len(steps)):
        while added <= min(step + ahead, len(steps) - 1):
            stream.add(steps[added], seed=added)
            added += 1
        episodes += sum(len(group.trajectories) for group in stream.collect(step))
    seconds = time.perf_counter() - begun
    drawn, ran = engine.stats.sampled - before.sampled, engine.stats.steps - before.steps
    return {
        "episodes_a_second": episodes / seconds,
        "occupancy": drawn / (engine.shapes.slots * ran),
        "tokens_an_episode": drawn / episodes,
        "seconds": seconds,
    }


def _tell(demo: Path) -> None:
    """Prints the steps' means of each arm's runs, the first steps left out, in which programs
    compile."""
    table = Table(title=f"{demo}, means over the steps from {_FROM} on")
    for column in ("run", *_TOLD):
        table.add_column(column.replace("_", " "), justify="right")
    for arm in ("stage1", "ahead"):
        for file in sorted(demo.glob(f"{arm}-*/metrics.jsonl")):
            lines = map(json.loads, file.read_text().splitlines())
            steps = [of for of in lines if of["kind"] == "train" and of["step"] >= _FROM]
            means = [statistics.fmean(step[name] for step in steps) for name in _TOLD]
            table.add_row(file.parent.name, *(f"{mean:.3g}" for mean in means))
    Console().print(table)


if __name__ == "__main__":
    main()
