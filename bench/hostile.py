"""Hostile outputs through the whole engine, about 4K pictures: none ends the run, none stays.

    JAX_PLATFORMS=cpu python bench/hostile.py [--json FILE]

Every turn is a text from `tests/support/hostile.py` (calls that are almost right, wild numbers,
broken JSON, tags in any order), or ids drawn at random, which are no UTF-8 and no text. Turns are
cut off where sampled ones would be: at a budget, and behind a token that ends a turn. All else is
the engine's: prompts, calls, crops, replies, what is written onto rows. Only the device's draws are
left out, and with --without-device its other programs. It runs until that many outputs have ended,
and prints what came of them, how episodes ended, and the resident memory after every tenth.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from occupancy import Idle
from rollout import SIZES
from rollout_memory import pictured, resident_bytes
from rollout_world import make_world

from lfpc_jax.rollout import engine as engine_module
from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import STOP_STRING, Rules
from lfpc_jax.rollout.scheduler import Scheduler
from lfpc_jax.trajectory import Trajectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the tests' own texts
from support import hostile

_AT_RANDOM = 10
"""One output in so many is ids at random."""


class Said(Scheduler):
    """Ends every turn with the next of `turns`, and draws nothing."""

    turns: Iterator[tuple[list[int], bool]]

    def _decode(self) -> None:
        for row in sorted(self.live):
            episode = self.rows[row]
            ids, stopped = next(self.turns)
            stopped &= len(ids) <= episode.budget
            ids = ids[: episode.budget]
            episode.drew(ids, [0.0] * len(ids), [0.0] * len(ids))
            self.stats.sampled += len(ids)
            self._close_turn(row, stopped=stopped)
            self.on_episode(episode)


def turns(engine: Engine, seed: int) -> Iterator[tuple[list[int], bool]]:
    """The ids of turns, and whether they stop by themselves, without end."""
    tokenizer = engine.dialogue.tokenizer
    allowed = np.flatnonzero(np.asarray(engine.slots._allowed))
    ends = {tokenizer.im_end, tokenizer.endoftext}
    rng = np.random.default_rng(seed)
    for number, text in enumerate(hostile.outputs(seed, sys.maxsize)):
        if number % _AT_RANDOM == 0:
            ids = rng.choice(allowed, int(rng.integers(1, 64))).tolist()
        else:
            head, stop, _ = text.partition(STOP_STRING)
            spelled = (head + stop).encode("utf-8", "replace").decode()
            ids = [one for one in tokenizer.encode(spelled).tolist() if one in allowed]
            ids += [] if stop else [tokenizer.im_end]
        ended = next((place for place, one in enumerate(ids) if one in ends), None)
        if ended is None:
            yield ids, STOP_STRING in tokenizer.decode(np.asarray(ids, np.int32))
        else:
            yield ids[: ended + 1], True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--outputs", type=int, default=10_000)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(3840, 2160), metavar=("W", "H"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-device", action="store_true", help="no program runs")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if args.without_device:
        engine_module.Slots = Idle  # type: ignore[misc]
    world = make_world(*SIZES["tiny"], slots=16, chunk=8)
    engine = Engine(world.cfg, world.dialogue, world.shapes, Rules(turn_tokens=256))
    engine.load(world.params)
    if not args.without_device:
        engine.warm_up()
    Said.turns = turns(engine, args.seed)
    engine_module.Scheduler = Said  # type: ignore[misc]
    figures = _run(engine, args)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def _run(engine: Engine, args: argparse.Namespace) -> dict[str, Any]:
    came: Counter[str] = Counter()
    episodes, rows, start = 0, [], time.perf_counter()
    asked = pictured(args.size)
    for group in engine.run(asked, rollouts=args.rollouts, seed=args.seed):
        for trajectory, crops in zip(group.trajectories, group.crops, strict=True):
            _check(trajectory, crops, engine)
            came.update(_outcomes(trajectory))
            episodes += 1
        if came.total() * 10 // args.outputs > len(rows):
            rows.append({"outputs": came.total(), "resident_bytes": resident_bytes()})
        if came.total() >= args.outputs:
            break
    assert not engine.stats.skipped, engine.stats.skipped
    return {
        "outputs": came.total(),
        "episodes": episodes,
        "came": dict(came.most_common()),
        "ends": dict(engine.stats.ends.most_common()),
        "growth": rows[-1]["resident_bytes"] / rows[min(1, len(rows) - 1)]["resident_bytes"] - 1,
        "rows": rows,
        "late": len(engine.slots.programs.late),
        "seconds": time.perf_counter() - start,
    }


def _outcomes(trajectory: Trajectory) -> Iterator[str]:
    for turn in trajectory.turns:
        yield "crop" if turn.crop else turn.fault or ("call" if turn.call else "text")


def _check(trajectory: Trajectory, crops: Any, engine: Engine) -> None:
    """Whatever was written, the ids of an episode fit, and its crops lie in its picture."""
    width, height = trajectory.original
    assert len(trajectory.ids) <= engine.shapes.capacity
    assert trajectory.end
    cut = [turn.crop for turn in trajectory.turns if turn.crop]
    assert len(cut) == len(crops)
    for crop in cut:
        x1, y1, x2, y2 = crop.box
        assert 0 <= x1 < x2 <= width, crop
        assert 0 <= y1 < y2 <= height, crop


if __name__ == "__main__":
    main()
