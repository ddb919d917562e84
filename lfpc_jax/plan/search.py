"""Settings for a slice, best guess first; whoever asks compiles them and takes the first that fits.

Rollouts: the fewest chips a copy of the model that leave room for slots, then as many slots as
there is room for. Updates: every mesh, remat and number of rows whose guessed memory fits
(`plan/guess.py`), ordered by the least time of a step.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from lfpc_jax.model import parameters
from lfpc_jax.plan import counts
from lfpc_jax.plan.guess import update_bytes
from lfpc_jax.plan.programs import bytes_per_chip
from lfpc_jax.plan.roofline import estimate
from lfpc_jax.plan.slices import Slice
from lfpc_jax.plan.training import Run, check_there
from lfpc_jax.plan.work import Workload
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.overrides import override

Flags = tuple[str, ...]

_WAYS = (1, 2, 4, 8)
_ROWS = (4, 2, 1)
_SLOTS = (512, 256, 128, 64, 32, 16, 8)
_ROOM = 0.85
"""Of a chip's memory for what a rollout holds; the rest is for what its programs need."""


def proposals(
    config: TrainConfig, where: Slice, load: Workload
) -> Iterator[tuple[Flags, TrainConfig]]:
    """Overrides, and the config with them."""
    if config.mesh.data != 1:
        raise ValueError(
            f"mesh.data {config.mesh.data}: --search splits parameters over fsdp and tensor alone; "
            "set it to 1, or plan this mesh without --search"
        )
    updates = sorted(_updates(config, where, load))
    for _, flags in updates:
        rollout = _rollout(override(config, flags), where)
        if rollout:
            proposed = override(config, (*flags, *rollout))
            check_there(proposed, where)
            yield (*flags, *rollout), proposed


def _updates(config: TrainConfig, where: Slice, load: Workload) -> Iterator[tuple[float, Flags]]:
    """The least seconds of a step's updates, and the settings."""
    for tensor in _WAYS:
        if _own(where) % tensor:
            continue
        for remat in ("dots", "full"):
            for rows in _ROWS:
                flags = ["--mesh.fsdp", "-1", "--mesh.tensor", str(tensor)]
                flags += ["--model.remat", remat, "--update.rows", str(rows)]
                run = Run.of(_alone(override(config, flags)), where)
                held = run.state_bytes + run.reference_bytes
                widest = run.rows.windows.sizes[-1]
                more = update_bytes(run.cfg, run.rows, widest, shards=run.shards, tensor=tensor)
                if held + more <= where.chip.hbm_bytes:
                    yield _seconds(run, load), tuple(flags)


def _seconds(run: Run, load: Workload) -> float:
    """Without a compiled program: what is sent is taken to be the weights of every pass, and with
    `tensor` the activations, summed twice a layer. Where no peaks are known, the FLOPs."""
    work, ways = run.loads(load)["update"], run.train.shape["tensor"]
    c, tokens = run.cfg.text, run.micro_batches * run.rows.rows * run.rows.row_tokens
    sums = 2 * c.layers * tokens * c.width * jnp.dtype(run.cfg.dtype).itemsize
    passes = 4 if run.cfg.remat == "full" else 3
    sent = work.bytes + passes * sums * 2 * (ways - 1) / ways
    least = estimate(work, sent, run.slice.chip)
    return work.calls * (least.seconds if least else work.flops)


def _rollout(config: TrainConfig, where: Slice) -> Flags | None:
    for tensor in _WAYS:
        if _own(where) % tensor:
            continue
        run = Run.of(override(config, ("--rollout.tensor", str(tensor))), where)
        held = run.state_bytes + run.reference_bytes
        weights = bytes_per_chip(parameters.whole(run.cfg, config.trainable, run.rollout))
        free = _ROOM * where.chip.hbm_bytes - held - weights
        chips = _own(where)
        each = counts.cache_bytes(run.cfg) * run.slots.capacity / chips
        for slots in _SLOTS:
            if slots * each <= free and slots % (chips // tensor) == 0:
                return ("--rollout.tensor", str(tensor), "--rollout.slots", str(slots))
    return None


def _own(where: Slice) -> int:
    """Chips of a host, within which a group of `tensor` lies: train.py refuses others."""
    return len(where.devices) // where.hosts


def _alone(config: TrainConfig) -> TrainConfig:
    """With rollouts that any slice can hold the mesh of."""
    return replace(config, rollout=replace(config.rollout, tensor=1))
