"""Whether host memory stays constant over many episodes with 4K images.

    JAX_PLATFORMS=cpu python bench/rollout_memory.py [--json FILE]

The engine must not hold on to episodes that have ended. The model is tiny, so that pictures take
nearly all of the memory. Prints the resident memory after every tenth of the episodes, and its
growth from the second tenth, when everything has been allocated once, to the end.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
from rich.console import Console
from rich.table import Table
from rollout import SIZES
from rollout_world import make_world

from lfpc_jax.rollout.engine import Engine
from lfpc_jax.rollout.episode import Rules
from lfpc_jax.trajectory import Picture, Record

_DISTINCT = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=2000)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(3840, 2160), metavar=("W", "H"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    world = make_world(*SIZES["tiny"], slots=16, chunk=8)
    engine = Engine(world.cfg, world.dialogue, world.shapes, Rules(episode_tokens=128))
    engine.load(world.params)
    engine.warm_up()
    asked = itertools.islice(pictured(args.size), args.episodes // args.rollouts)
    done, rows, crops, start = 0, [], 0, time.perf_counter()
    for group in engine.run(asked, rollouts=args.rollouts, seed=0):
        done += len(group.trajectories)
        crops += sum(map(len, group.crops))
        if done * 10 // args.episodes > len(rows):
            rows.append({"episodes": done, "resident_bytes": resident_bytes()})
    seconds = time.perf_counter() - start
    growth = rows[-1]["resident_bytes"] / rows[1]["resident_bytes"] - 1
    table = Table(
        title=f"{done} episodes, {crops} crops, images of {args.size[0]} x {args.size[1]}"
    )
    table.add_column("episodes", justify="right")
    table.add_column("resident MB", justify="right")
    for row in rows:
        table.add_row(str(row["episodes"]), f"{row['resident_bytes'] / 1e6:,.0f}")
    Console().print(table)
    print(f"growth {growth:+.1%}, {done / seconds:.1f} episodes/s")
    if args.json:
        figures = {"growth": growth, "episodes_per_second": done / seconds, "rows": rows}
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def resident_bytes() -> int:
    """This process's, from Linux."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def pictured(size: tuple[int, int]) -> Iterator[Record]:
    """Without end, over a few distinct photographs' worth of JPEG: blocks of noise, not flat and
    not random."""
    folder = Path(tempfile.mkdtemp(prefix="rollout-memory-"))
    rng = np.random.default_rng(0)
    files = []
    for number in range(_DISTINCT):
        coarse = rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), np.uint8)
        picture = PIL.Image.fromarray(coarse).resize(tuple(size), PIL.Image.Resampling.BICUBIC)
        files.append(folder / f"{number}.jpg")
        picture.save(files[-1], quality=90)
    for number, file in enumerate(itertools.cycle(files)):
        yield Record(f"r{number}", "Which colour is it?", "red", Picture(path=str(file)))


if __name__ == "__main__":
    main()
