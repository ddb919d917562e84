"""The programs of a run by phase: rollouts, a target's answers, resharding, log-probabilities and
updates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
from jax.sharding import Mesh

from lfpc_jax.distributed.mesh import make_mesh, rollout_mesh
from lfpc_jax.distributed.publish import Publisher
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

    Resharding goes array by array, so a chip also holds the old layout of all parameters and the
    new one. If the policy's own log-probabilities are not computed, only the reference's are. A
    target's weights are there in every phase. While it is asked, the rollouts' weights are, too,
    but not their cache.
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

    yield Phase("rollout", run.rollout_mesh, wanted(rollouts), held)
    if run.target is not None:
        beside = state + reference + run.rollout_bytes
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
    """The largest of the parameters, moved from the trainer's layout to the rollouts'. Each part of
    it is then already on the device where the rollouts need it."""
    publisher = Publisher(run.place, run.train_mesh, run.rollout_mesh)
    moved, lay_out = (jax.tree.leaves(tree) for tree in (publisher.moved, publisher.lay_out))
    largest, jitted = max(zip(moved, lay_out), key=lambda pair: pair[0].size)
    yield Uncompiled("reshard", partial(jitted.lower, largest), {"parameters": largest})


def _laid_out_beside(run: PlannedRun) -> int:
    """What is there during a move: all parameters as updates have them, and all but the largest as
    rollouts do."""
    before, after = (
        jax.tree.leaves(run.place(mesh)) for mesh in (run.train_mesh, run.rollout_mesh)
    )
    largest = max(after, key=lambda x: x.size)
    return bytes_per_chip(before) + bytes_per_chip(after) - bytes_per_chip(largest)


def _update(run: PlannedRun) -> PlannedUpdate:
    return PlannedUpdate.of(
        run.cfg,
        run.train_mesh,
        run.train_shapes,
        pictures=run.layout.pictures,
        objective=run.config.update.objective,
        trainable=run.config.trainable,
        temperature=run.config.policy_temperature,
    )
