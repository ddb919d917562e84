"""The programs of a run by phase: rollouts, a target's answers, resharding, log-probabilities and
updates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
from jax.sharding import Mesh

from lfpc_jax.distributed.mesh import make_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher, lies_so
from lfpc_jax.model import config
from lfpc_jax.plan.programs import PROGRAMS, Sizes, Uncompiled, bytes_per_chip
from lfpc_jax.plan.rollout import rollout_programs
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.plan.slices import Slice
from lfpc_jax.plan.update import PlannedUpdate
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.shapes import RolloutShapes


@dataclass(frozen=True)
class Phase:
    """Programs that run on one mesh while a chip holds `beside` bytes for others."""

    name: str
    mesh: Mesh
    programs: Iterator[Uncompiled]
    beside: int = 0


def phases(run: PlannedRun, only: Sequence[str] | None = None) -> Iterator[Phase]:
    """All phases of a run, or those of their programs that `only` names.

    Resharding goes array by array, so a chip also holds the old layout of all parameters that are
    moved and the new one. Rollouts and updates hold what is frozen once where it lies on a chip in
    the same way for both. If the policy's own log-probabilities are not computed, only the
    reference's are. A target's weights are there in every phase. While it is asked, the rollouts'
    weights are, too, but not their cache.
    """
    state, reference, target = run.state_bytes, run.reference_bytes, run.target_bytes
    held = state + reference + target
    update = _update(run)
    rows = run.mini_batches * run.layout.rows * update.rows_bytes + run.unfinished_bytes
    rollouts = rollout_programs(
        replace(run.cfg, remat="none", tower_remat=None),
        run.rollout_mesh,
        run.rollout_shapes,
        run.config.rules.sampling,
        run.config.trainable,
    )

    def wanted(programs: Iterator[Uncompiled]) -> Iterator[Uncompiled]:
        return (program for program in programs if only is None or program.name in only)

    yield Phase("rollout", run.rollout_mesh, wanted(rollouts), held - run.shared_bytes)
    if run.target is not None:
        beside = state + reference + run.rollout_bytes - run.shared_bytes
        yield Phase("target", run.rollout_mesh, wanted(run.target.programs()), beside)
    resharding = held + run.unfinished_bytes + _laid_out_beside(run)
    yield Phase("reshard", run.train_mesh, wanted(_reshard(run)), resharding)
    if run.scored or run.references:
        beside = target + rows + (reference if run.scored else 0)
        scoring = update.scoring(of_policy=bool(run.scored))
        yield Phase("score", run.train_mesh, wanted(scoring), beside)
    beside = reference + target + rows
    yield Phase("update", run.train_mesh, wanted(update.updating()), beside)


def rollout_phase(model: str, where: Slice, tensor: int, shapes: RolloutShapes) -> Phase:
    """A published model's rollout engine alone."""
    mesh = rollout_mesh(tensor, devices=where.devices)
    shapes = shapes.sharded(mesh.shape["data"])
    programs = rollout_programs(_published(model), mesh, shapes, Sampling(top_p=0.95))
    return Phase("rollout", mesh, programs)


def model_phase(
    model: str, where: Slice, tensor: int, program: str, length: int, windows: int
) -> Phase:
    """A published model's forward or gradient alone: a row and an image for each `fsdp` group."""
    mesh = make_mesh(fsdp=-1, tensor=tensor, devices=where.devices)
    rows = mesh.shape["fsdp"]
    sizes = Sizes(rows, length, images=rows, windows=windows)
    return Phase("model", mesh, iter([PROGRAMS[program](_published(model), mesh, sizes)]))


def _published(model: str) -> config.ModelConfig:
    return config.published(model, kernel="splash", remat="full")


def _reshard(run: PlannedRun) -> Iterator[Uncompiled]:
    """The largest of the parameters that are moved from the trainer's layout to the rollouts'. Each
    part of it is then already on the device where the rollouts need it."""
    publisher = Publisher(run.place, run.train_mesh, run.rollout_mesh)
    trees = run.place(run.train_mesh), publisher.whole, publisher.moved, publisher.lay_out
    moving = [
        (moved, lay_out)
        for before, after, moved, lay_out in zip(*map(jax.tree.leaves, trees), strict=True)
        if not lies_so(before, after)
    ]
    if moving:
        largest, jitted = max(moving, key=lambda pair: pair[0].size)
        yield Uncompiled("reshard", partial(jitted.lower, largest), {"parameters": largest})


def _laid_out_beside(run: PlannedRun) -> int:
    """What is there during a move beside the state: a copy of what is trained, as updates have it,
    and what is moved as rollouts have it, but for the largest."""
    trees = run.place(run.train_mesh), run.place(run.rollout_mesh)
    pairs = zip(*map(jax.tree.leaves, trees), strict=True)
    moved = [after for before, after in pairs if not lies_so(before, after)]
    largest = max(moved, key=lambda x: x.size, default=())
    return run.trained_copy_bytes + bytes_per_chip(moved) - bytes_per_chip(largest)


def _update(run: PlannedRun) -> PlannedUpdate:
    return PlannedUpdate.of(
        run.cfg,
        run.train_mesh,
        run.train_shapes,
        pictures=run.layout.pictures,
        objective=run.config.update.objective,
        trainable=run.config.trainable,
        temperature=run.config.policy_temperature,
        moments_on_host=run.config.moments_on_host,
    )
