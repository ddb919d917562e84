"""What `rollout.chunk` and `rollout.ahead` make of a run's slots, by the episodes that it kept.

    JAX_PLATFORMS=cpu python bench/occupancy.py runs/demo/stage1-0 [--chunk 8 4 2] [--ahead 0 1]

The engine's scheduler runs the turns of the run's archive again, under the run's settings but for
these two, and no device computes anything. Shares are of slots and steps: those that sampled, those
whose turn had ended before its chunk did, that waited for a reply, and without an episode. A reply
and a prompt are there once the chunk is over during which they were made. `calls` is how often a
chunk was decoded for each episode, since every call costs the host some time.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from lfpc_jax.distributed.mesh import rollout_mesh
from lfpc_jax.model import config as model_config
from lfpc_jax.rollout import engine as engine_module
from lfpc_jax.rollout import stream as stream_module
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.scheduler import Scheduler
from lfpc_jax.rollout.slots import Slots
from lfpc_jax.rollout.stream import EpisodeStream
from lfpc_jax.run.building import dialogue_of, engine_of
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.metrics import rollout_metrics
from lfpc_jax.run.recorded import recorded_config
from lfpc_jax.trajectory import Group

Turns = dict[tuple[str, int], list[list[int]]]
"""The ids of each turn, by record and rollout."""


class Idle(Slots):
    """Slots on which no program runs."""

    @contextmanager
    def allocated(self) -> Iterator[None]:
        yield

    def _timed(self, name: str, *args: Any) -> None:
        return None


class Played(Scheduler):
    """Samples what was sampled before, a chunk at a time."""

    turns: ClassVar[Turns] = {}
    calls = 0

    def _decode(self) -> None:
        meanwhile = self._futures()
        live, rows, longest, sampled = sorted(self.live), len(self.rows), 0, 0
        Played.calls += 1
        for row in live:
            episode = self.rows[row]
            turns = self.turns[episode.opening.record.id.partition("/")[2], episode.rollout]
            number, end = len(episode.turns), self.dialogue.tokenizer.im_end
            left = turns[number] if number < len(turns) else [end]
            left = left[len(episode.ids) - episode._turn_start :]
            ids = left[: min(self.shapes.chunk, episode.budget)]
            episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
            longest, sampled = max(longest, len(ids)), sampled + len(ids)
            if len(ids) == len(left) or not episode.budget:
                self._close_turn(row, stopped=len(ids) == len(left))
        self.stats.steps += longest
        self.stats.sampled += sampled
        self.stats.idle["replies"] += longest * (rows - len(live))
        self.stats.idle["ended"] += longest * len(live) - sampled
        wait(meanwhile)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--chunk", type=int, nargs="+", default=[8, 4, 2])
    parser.add_argument("--ahead", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    run = RunFolder(args.run)
    config = recorded_config(run.settings)
    archive = Archive(run.trajectories)
    kept = [g for part in archive.parts() if part.startswith("step-") for g in archive.read(part)]
    if not kept:
        raise SystemExit(f"{run.trajectories}: no episodes of a step; name a run that kept some")
    engine_module.Slots = Idle  # type: ignore[misc]
    stream_module.Scheduler = Played  # type: ignore[misc]
    found = []
    table = Table(title=f"{args.run}, {args.steps} steps of {config.rollout.prompts} prompts")
    for chunk, ahead in itertools.product(args.chunk, args.ahead):
        figures = _played(config, run.assets, kept, args.steps, chunk, ahead)
        found.append({"chunk": chunk, "ahead": ahead} | figures)
    for name in found[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for figures in found:
        table.add_row(*(f"{value:.3g}" for value in figures.values()))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


def _played(
    config: TrainConfig, assets: Path, kept: list[Group], steps: int, chunk: int, ahead: int
) -> dict[str, float]:
    config = replace(config, rollout=replace(config.rollout, chunk=chunk))
    cfg = model_config.from_folder(assets, dtype="float32")
    engine = engine_of(config, cfg, dialogue_of(config, assets), rollout_mesh(1))
    assert isinstance(engine, Engine)
    Played.calls, Played.turns = 0, {}
    records = {}
    for group in kept:
        records[group.record.id] = group.record
        for place, t in enumerate(group.trajectories):
            said = [t.ids[turn.start : turn.stop].tolist() for turn in t.turns]
            Played.turns[group.record.id, place] = said
    prompts, every = config.rollout.prompts, itertools.cycle(records.values())
    before, added = deepcopy(engine.stats), 0
    stream = EpisodeStream(engine, rollouts=config.rollout.rollouts)
    for step in range(steps):
        while added <= min(step + ahead, steps - 1):
            asked = itertools.islice(every, prompts)
            # An id is unique, and ends with the one that the archive has.
            named = [replace(r, id=f"{added}.{n}/{r.id}") for n, r in enumerate(asked)]
            stream.add(named, seed=added)
            added += 1
        for _ in stream.collect(step):
            pass
    if engine.stats.skipped:
        name, reason = engine.stats.skipped[0]
        raise SystemExit(f"{name}: cannot be shown again ({reason}); run this where training ran")
    values = rollout_metrics(engine.stats, before)
    names = ("occupancy", "idle_ended", "idle_replies", "idle_free")
    shares = {name: values[f"rollout/{name}"] for name in names}
    return shares | {"calls": Played.calls / engine.stats.rollouts}


if __name__ == "__main__":
    main()
