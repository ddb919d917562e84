"""Settings for a slice, the most promising first. The caller compiles each until one fits.

For rollouts it takes the fewest chips per copy of the model that leave room for slots, and then as
many slots as there is room for, with half more prompts in memory than they need, or if there is no
room for these, just as many. For updates it takes every mesh, rematerialisation and number of
rows whose estimated memory fits (`grpo/remat.py`), in the order of the least time of a step. The
size of rows follows from the lengths of the episodes.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from lfpc_jax.grpo.packing import Item, deal
from lfpc_jax.grpo.remat import FROM_MOST, update_bytes
from lfpc_jax.model.attention_splash import LANES
from lfpc_jax.plan.counts import CacheBytes, passes
from lfpc_jax.plan.episodes import PlannedEpisode, filled_rows
from lfpc_jax.plan.roofline import least_time
from lfpc_jax.plan.run import PlannedRun, check_there
from lfpc_jax.plan.slices import Slice
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.overrides import override

Flags = tuple[str, ...]

_WAYS = (1, 2, 4, 8)
_ROWS = (4, 2, 1)
_SLOTS = (512, 256, 128, 64, 32, 16, 8)
_SIZES = 8
"""Sizes of rows are tried in steps of the longest episode divided by this."""
_HOST_RATE = 16e9
"""Bytes a second that a chip moves to or from its host's memory, assumed for `offload`."""
_ROOM = 0.85
"""The share of a chip's memory for what a rollout holds; the rest is for what its programs need."""


def proposals(
    config: TrainConfig,
    where: Slice,
    episode: PlannedEpisode,
    items: Sequence[Item] = (),
) -> Iterator[tuple[Flags, TrainConfig]]:
    """Yields overrides, and the config that they give."""
    if config.mesh.data != where.slices:
        raise ValueError(
            f"mesh.data {config.mesh.data}: --search splits parameters over fsdp and tensor alone, "
            f"and {where.name} has {where.slices} slices; set it to {where.slices}, or plan this "
            "mesh without --search"
        )
    for _, update in sorted(_updates(config, where, episode, items)):
        rollout = _rollout(override(config, update), where)
        if rollout:
            proposed = override(config, (*update, *rollout))
            check_there(proposed, where)
            yield (*update, *rollout), proposed


def _updates(
    config: TrainConfig, where: Slice, episode: PlannedEpisode, items: Sequence[Item]
) -> Iterator[tuple[float, Flags]]:
    """Settings of updates, each with the least seconds of a step's updates."""
    for tensor, rows in itertools.product(_ways(where), _ROWS):
        mesh = ("--mesh.fsdp", "-1", "--mesh.tensor", str(tensor), "--update.rows", str(rows))
        with_mesh = _single_chip_rollouts(override(config, mesh))
        run = PlannedRun.of(with_mesh, where, episode, items)
        row_tokens = _row_tokens(run)
        for remat in (*FROM_MOST, "offload"):
            flags: Flags = (*mesh, "--update.row_tokens", str(row_tokens), "--model.remat", remat)
            run = PlannedRun.of(override(with_mesh, flags), where, episode, items)
            need = update_bytes(run.cfg, run.train_shapes, run.config.trainable, run.remat_room)
            if need <= where.chip.hbm_bytes:
                yield _seconds(run), (*flags, "--model.tower_remat", run.remat.tower_remat)


def _row_tokens(run: PlannedRun) -> int:
    """Of rows between an episode at its longest and twice that, those in which a shard computes the
    fewest tokens, and of these the shortest."""
    capacity, shapes = run.rollout_shapes.capacity, run.train_shapes

    def computed(row_tokens: int) -> int:
        filled = filled_rows(run.mini_batch, row_tokens, shared=shapes.shared)
        rows = max(map(len, deal(filled, run.local_shards)))
        return -(-rows // shapes.rows) * shapes.rows * row_tokens

    unit = max(LANES, -(-capacity // _SIZES // LANES) * LANES)
    return min(range(-(-capacity // unit) * unit, 2 * capacity + 1, unit), key=computed)


def _seconds(run: PlannedRun) -> float:
    """An estimate without a compiled program. What is sent is assumed to be the weights of every
    pass and, with `tensor`, the activations, which are summed twice a layer. If no peaks are known,
    the FLOPs stand for the time."""
    work, ways = run.loads(), run.train_mesh.shape["tensor"]
    c, shapes = run.cfg.text, run.train_shapes
    tokens = shapes.rows * shapes.row_tokens
    sums = 2 * c.layers * tokens * c.width * jnp.dtype(run.cfg.dtype).itemsize
    sums *= passes(run.cfg.remat)
    offloaded = c.layers * tokens * c.width * 2 if run.cfg.remat == "offload" else 0
    seconds = 0.0
    for name in ("update", "update pictures", "update pictures back"):
        load = work[name]
        sent = load.bytes + (sums * 2 * (ways - 1) / ways if name == "update" else 0)
        least = least_time(load, sent, run.slice.chip)
        seconds += load.calls * (least.seconds if least else load.flops)
        if name == "update":
            seconds += load.calls * 2 * offloaded / _HOST_RATE
    return seconds


def _rollout(config: TrainConfig, where: Slice) -> Flags | None:
    for tensor in _ways(where):
        run = PlannedRun.of(override(config, ("--rollout.tensor", str(tensor))), where)
        held = run.state_bytes + run.reference_bytes + run.target_bytes - run.shared_bytes
        free = _ROOM * where.chip.hbm_bytes - held - run.rollout_bytes
        groups = where.chips_a_host // tensor
        for slots in (slots for slots in _SLOTS if slots % groups == 0):
            together = min(config.rollout.rollouts, slots // groups)
            for prefixes in (0, -(-slots // together)):
                flags = ("--rollout.tensor", tensor, "--rollout.slots", slots,
                         "--rollout.prefixes", prefixes)  # fmt: skip
                proposed = tuple(map(str, flags))
                shapes = override(config, proposed).rollout_shapes(run.cfg.vision.window, groups)
                with jax.set_mesh(run.rollout_mesh):
                    cache = CacheBytes.of(run.cfg, shapes, groups=groups, tensor=tensor)
                if cache.total <= free:
                    return proposed
    return None


def _ways(where: Slice) -> Iterator[int]:
    """Sizes of a `tensor` group that fit within a host; `lfpc train` refuses others."""
    return (ways for ways in _WAYS if where.chips_a_host % ways == 0)


def _single_chip_rollouts(config: TrainConfig) -> TrainConfig:
    """With rollouts that any slice can hold the mesh of."""
    return replace(config, rollout=replace(config.rollout, tensor=1))
