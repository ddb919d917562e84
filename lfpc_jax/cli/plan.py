"""What a training run needs on TPUs or GPUs, according to their compiler. None is needed.

    lfpc plan --config stage1.py --topology v5p:2x2x4 [--rollout.tensor 4 ...] [--json FILE]

compiles every program of the run for the slice: a host's rollouts at their largest, a local
target's programs, the resharding, the log-probabilities and the update of the whole slice.
Topologies are TPU slices (v5e:4x4; two of them 2xv5e:4x4), hosts with GPUs (h100:8; two of them
h100:2x8), and what is here (cpu:8, gpu).
It prints memory per chip by kind, FLOPs, bytes of memory and network, the least seconds that a step
can take, and compile times. If a model folder is not here, the published model of the size in
its name is planned. If a program does not fit, the command says which setting to change and exits
with 1.

    lfpc plan --config stage1.py --topology v5e:4x8 --search

proposes a mesh, remat, rows, their size and slots whose programs were compiled and fit. With
`--lengths RUN` rows are filled with the episodes that a run kept.

    lfpc plan --model 3b 7b --topology v5e:2x4 v5p:2x2x2

compiles only the forward and its gradient (lfpc_jax/plan/programs.py) of published sizes; with
`--program rollout --tensor 4 --slots 128 --capacity 8192` the rollout engine's programs.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from lfpc_jax.cli import command
from lfpc_jax.cli.parsers.plan import parser
from lfpc_jax.grpo.packing import Item
from lfpc_jax.plan import slices
from lfpc_jax.plan.compiling import Compiled, assigned, compile_into, compiled
from lfpc_jax.plan.episodes import PlannedEpisode, mean_episode, planned_episode, seen_items
from lfpc_jax.plan.phases import model_phase, phases, rollout_phase
from lfpc_jax.plan.planned import PlannedProgram, advice, plan, step_figures
from lfpc_jax.plan.programs import PROGRAMS, Uncompiled
from lfpc_jax.plan.run import PlannedRun, check_there, model_of
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.tables import print_step, print_tables
from lfpc_jax.remote.hub import fetching_nothing
from lfpc_jax.run import progress
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.config_files import CONFIGS, load_config
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.overrides import override
from lfpc_jax.shapes import RolloutShapes


@dataclass(frozen=True)
class Plan:
    """The plan of a slice: its programs, and a run's figures."""

    title: str
    programs: Sequence[PlannedProgram]
    run: dict[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    args, overrides = parser().parse_known_args(argv)
    with fetching_nothing():  # a plan needs no weights
        return command.run(partial(_plans, args, overrides))


def _plans(args: argparse.Namespace, overrides: Sequence[str]) -> int:
    if not args.config and (overrides or not args.model):
        unknown = f"unknown {' '.join(overrides)}; " if overrides else ""
        raise ValueError(f"{unknown}give --model SIZES, or --config and its overrides")
    if args.dump:
        _compile_into(args, overrides, *args.dump)
        return 0
    if args.config:
        plans = [_plan_run(args, overrides, name) for name in args.topology]
    else:
        plans = [_plan_model(args, size, name) for size in args.model for name in args.topology]
    if args.json:
        programs = [
            {"what": each.title, **program.figures} for each in plans for program in each.programs
        ]
        whole = {"runs": [each.run for each in plans if each.run], "programs": programs}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0 if all(program.fits for each in plans for program in each.programs) else 1


def _plan_run(args: argparse.Namespace, overrides: Sequence[str], topology: str) -> Plan:
    """Plans the run on one slice, as it is configured or with the first proposal that fits."""
    given = override(load_config(args.config, CONFIGS), overrides)
    where = slices.find(topology)
    episode, items = _episodes(args, given, where)
    tried = proposals(given, where, episode, items) if args.search else [((), given)]
    for flags, config in tried:
        check_there(config, where)
        run = PlannedRun.of(config, where, episode, items)
        words = (*overrides, *flags)
        again = ("--config", args.config, "--topology", topology, *words) if args.quick else None
        again = again and (*again, *_resolved(run))
        compile_ = partial(_compile, f"{args.config} for {topology}", again, where)
        programs = list(plan(phases(run, args.program), where.chip, run.loads(), compile_))
        if not programs:
            known = dict.fromkeys(program.name for each in phases(run) for program in each.programs)
            raise ValueError(f"program {', '.join(args.program)!r}: the run has {', '.join(known)}")
        title = " ".join((args.config, "on", topology, *words))
        print_tables(title, programs)
        if all(program.fits for program in programs) or not args.search:
            figures = step_figures(run, programs)
            print_step(figures, run.episode)
            _print_shortages(programs, title, where, config)
            return Plan(title, programs, {"config": args.config, "topology": topology, **figures})
    raise ValueError(
        f"{args.config}: nothing found that fits {topology} and that lfpc train would start there; "
        "take a larger slice"
    )


def _episodes(
    args: argparse.Namespace, config: TrainConfig, where: slices.Slice
) -> tuple[PlannedEpisode, Sequence[Item]]:
    """The episode to plan rollouts for, and those of a mini-batch if a run's are to be planned
    for."""
    if args.lengths is None:
        return planned_episode(config, args.sampled, args.crops), ()
    if (args.sampled, args.crops) != (None, None):
        raise ValueError("--lengths with --sampled or --crops: give the run's lengths or those")
    cfg = model_of(config, where.platform)
    items = seen_items(RunFolder(args.lengths), cfg, groups=config.update.mini_batch)
    return mean_episode(items, config.rollout_shapes(cfg.vision.window)), items


def _resolved(run: PlannedRun) -> tuple[str, ...]:
    """Flags of what was chosen by an estimate, so that another process compiles the same."""
    chosen = run.remat
    return ("--model.remat", chosen.remat, "--model.tower_remat", chosen.tower_remat)


def _plan_model(args: argparse.Namespace, model: str, topology: str) -> Plan:
    """Plans programs of a published model on one slice, without a run."""
    where, title = slices.find(topology), f"{model} on {topology}"
    chosen = []
    for program in args.program or PROGRAMS:
        if program == "rollout":
            shapes = RolloutShapes(
                slots=args.slots,
                capacity=args.capacity,
                chunk=64,
                prefill_rows=4,
                extend_rows=8,
                prefixes=-(-3 * args.slots // (2 * RolloutShapes.members)),
            )
            chosen.append(rollout_phase(model, where, args.tensor, shapes))
        elif program in PROGRAMS:
            phase = model_phase(model, where, args.tensor, program, args.length, args.windows)
            chosen.append(phase)
        else:
            known = ", ".join((*PROGRAMS, "rollout"))
            raise ValueError(f"program {program!r}: of a model there are {known}")
    compile_ = partial(_compile, f"{model} for {topology}", None, where)
    programs = list(plan(chosen, where.chip, {}, compile_))
    print_tables(title, programs)
    _print_shortages(programs, title, where)
    return Plan(title, programs)


def _compile(
    what: str, again: Sequence[str] | None, where: slices.Slice, program: Uncompiled, mesh: Mesh
) -> Compiled:
    """Compiles to the end. If flags that plan the run `again` are given, only until memory is
    assigned."""
    machine = where.machine(mesh)
    with progress.waiting(f"compiling {program.name}, {what}"):
        if again is None:
            return compiled(program, machine)
        command = (sys.executable, "-m", __name__, *again, "--dump", program.name)
        return assigned(program, command, machine)


def _compile_into(
    args: argparse.Namespace, overrides: Sequence[str], name: str, folder: str
) -> None:
    """Compiles in the process that `assigned` starts. `assigned` ends the process once memory is
    assigned."""
    config, where = (
        override(load_config(args.config, CONFIGS), overrides),
        slices.find(args.topology[0]),
    )
    for phase in phases(PlannedRun.of(config, where), [name]):
        for program in phase.programs:
            compile_into(program, Path(folder), where.machine(phase.mesh))
            return


def _print_shortages(
    programs: Iterable[PlannedProgram],
    title: str,
    where: slices.Slice,
    config: TrainConfig | None = None,
) -> None:
    for program in programs:
        if not program.fits:
            too_much = program.holds_too_much
            remedy = advice(program.phase, where, config, holds_too_much=too_much)
            print(
                f"error: {program.program} does not fit, {title} ({program.shortage}): {remedy}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
