"""Settings for a slice, the most promising first. The caller compiles each until one fits.

For rollouts it takes the fewest chips per copy of the model that leave room for slots, and then as
many slots as there is room for. For updates it takes every mesh, rematerialisation and number of
rows whose estimated memory fits (`plan/guess.py`), in the order of the least time of a step.
"""

from collections.abc import Iterator
from dataclasses import replace

import jax.numpy as jnp

from lfpc_jax.plan import counts
from lfpc_jax.plan.guess import update_bytes
from lfpc_jax.plan.roofline import least_time
from lfpc_jax.plan.run import PlannedRun, check_there
from lfpc_jax.plan.slices import Slice
from lfpc_jax.plan.work import PlannedEpisode
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.overrides import override

Flags = tuple[str, ...]

_WAYS = (1, 2, 4, 8)
_ROWS = (4, 2, 1)
_SLOTS = (512, 256, 128, 64, 32, 16, 8)
_ROOM = 0.85
"""The share of a chip's memory for what a rollout holds; the rest is for what its programs need."""


def proposals(
    config: TrainConfig, where: Slice, episode: PlannedEpisode
) -> Iterator[tuple[Flags, TrainConfig]]:
    """Yields overrides, and the config that they give."""
    if config.mesh.data != 1:
        raise ValueError(
            f"mesh.data {config.mesh.data}: --search splits parameters over fsdp and tensor alone; "
            "set it to 1, or plan this mesh without --search"
        )
    for _, update in sorted(_updates(config, where, episode)):
        rollout = _rollout(override(config, update), where)
        if rollout:
            proposed = override(config, (*update, *rollout))
            check_there(proposed, where)
            yield (*update, *rollout), proposed


def _updates(
    config: TrainConfig, where: Slice, episode: PlannedEpisode
) -> Iterator[tuple[float, Flags]]:
    """Settings of updates, each with the least seconds of a step's updates."""
    for tensor in _ways(where):
        for remat in ("dots", "full"):
            for rows in _ROWS:
                flags = ["--mesh.fsdp", "-1", "--mesh.tensor", str(tensor)]
                flags += ["--model.remat", remat, "--update.rows", str(rows)]
                run = PlannedRun.of(_single_chip_rollouts(override(config, flags)), where)
                held = run.state_bytes + run.reference_bytes
                held += run.target_bytes // max(_ways(where))  # split as far as it can be
                shapes = run.train_shapes
                widest = shapes.windows.sizes[-1]
                more = update_bytes(run.cfg, shapes, widest, shards=run.shards, tensor=tensor)
                if held + more <= where.chip.hbm_bytes:
                    yield _seconds(run, episode), tuple(flags)


def _seconds(run: PlannedRun, episode: PlannedEpisode) -> float:
    """An estimate without a compiled program. What is sent is assumed to be the weights of every
    pass and, with `tensor`, the activations, which are summed twice a layer. If no peaks are known,
    the FLOPs stand for the time."""
    work, ways = run.loads(episode)["update"], run.train_mesh.shape["tensor"]
    c, shapes = run.cfg.text, run.train_shapes
    tokens = run.micro_batches * shapes.rows * shapes.row_tokens
    sums = 2 * c.layers * tokens * c.width * jnp.dtype(run.cfg.dtype).itemsize
    passes = 4 if run.cfg.remat == "full" else 3
    sent = work.bytes + passes * sums * 2 * (ways - 1) / ways
    least = least_time(work, sent, run.slice.chip)
    return work.calls * (least.seconds if least else work.flops)


def _rollout(config: TrainConfig, where: Slice) -> Flags | None:
    for tensor in _ways(where):
        run = PlannedRun.of(override(config, ("--rollout.tensor", str(tensor))), where)
        held = run.state_bytes + run.reference_bytes + run.target_bytes
        free = _ROOM * where.chip.hbm_bytes - held - run.rollout_bytes
        chips = where.chips_a_host
        each = counts.cache_bytes(run.cfg) * run.rollout_shapes.capacity / chips
        for slots in _SLOTS:
            if slots * each <= free and slots % (chips // tensor) == 0:
                return ("--rollout.tensor", str(tensor), "--rollout.slots", str(slots))
    return None


def _ways(where: Slice) -> Iterator[int]:
    """Sizes of a `tensor` group that fit within a host; `train.py` refuses others."""
    return (ways for ways in _WAYS if where.chips_a_host % ways == 0)


def _single_chip_rollouts(config: TrainConfig) -> TrainConfig:
    """With rollouts that any slice can hold the mesh of."""
    return replace(config, rollout=replace(config.rollout, tensor=1))
