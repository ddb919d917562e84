"""One of two processes with two devices each: an engine over its own share of the records.

two_processes.py PORT INDEX OUT
"""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import spec
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.engine import Engine, own_share
from lfpc_jax.rollout.episode import Rules
from support import small


def main(port: str, index: str, out: Path) -> None:
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    assert len(jax.devices()) == 4
    mesh = make_mesh(2, 1, 1, devices=jax.local_devices())
    made = Engine(
        small.config(), small.dialogue(), small.SHAPES, Rules(episode_tokens=80), mesh=mesh,
        unstacked=False,
    )  # fmt: skip
    made.load(jax.device_put(small.params(), spec.shardings(small.config(), mesh)))
    records = own_share([small.record(i) for i in range(5)])
    Archive(out).append(f"process-{index}", made.run(records, rollouts=4, seed=0))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
