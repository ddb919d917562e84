"""What a training run needs on a TPU slice, according to the TPU compiler. No TPU is needed.

    plan.py --config stage1.py --topology v5p:2x2x4 [--rollout.tensor 4 ...] [--json FILE]

compiles every program of the run for the slice (or for cpu:8, or for this machine's gpu): a host's
rollouts at their largest, a local target's programs, the resharding, the log-probabilities and the
update of the whole slice.
It prints memory per chip by kind, FLOPs, bytes of memory and network, the least seconds that a step
can take, and compile times. If a model folder is not here, the published model of the size in
its name is planned. If a program does not fit, the command says which setting to change and exits
with 1.

    plan.py --config stage1.py --topology v5e:4x8 --search

proposes a mesh, remat, rows and slots whose programs were compiled and fit.

    plan.py --model 3b 7b --topology v5e:2x4 v5p:2x2x2

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

from lfpc_jax.cli.parsers.plan import parser
from lfpc_jax.plan import slices
from lfpc_jax.plan.compiling import Compiled, assigned, compile_into, compiled
from lfpc_jax.plan.phases import model_phase, phases, rollout_phase
from lfpc_jax.plan.planned import PlannedProgram, advice, plan, step_figures
from lfpc_jax.plan.programs import PROGRAMS, Uncompiled
from lfpc_jax.plan.run import PlannedRun, check_there
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.tables import print_step, print_tables
from lfpc_jax.plan.work import planned_episode
from lfpc_jax.run import progress
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.config_files import CONFIGS, load_config
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
    try:
        if not args.config and (overrides or not args.model):
            raise ValueError(
                f"unknown {overrides}; give --model SIZES, or --config and its overrides"
            )
        if args.dump:
            _compile_into(args, overrides, *args.dump)
            return 0
        if args.config:
            plans = [_plan_run(args, overrides, name) for name in args.topology]
        else:
            plans = [_plan_model(args, size, name) for size in args.model for name in args.topology]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
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
    episode = planned_episode(given, args.sampled, args.crops)
    tried = proposals(given, where, episode) if args.search else [((), given)]
    for flags, config in tried:
        check_there(config, where)
        run = PlannedRun.of(config, where)
        words = (*overrides, *flags)
        again = ("--config", args.config, "--topology", topology, *words) if args.quick else None
        compile_ = partial(_compile, f"{args.config} for {topology}", again)
        programs = list(plan(phases(run, args.program), where.chip, run.loads(episode), compile_))
        if not programs:
            known = dict.fromkeys(program.name for each in phases(run) for program in each.programs)
            raise ValueError(f"program {', '.join(args.program)!r}: the run has {', '.join(known)}")
        title = " ".join((args.config, "on", topology, *words))
        print_tables(title, programs)
        if all(program.fits for program in programs) or not args.search:
            figures = step_figures(config, where, programs)
            print_step(figures, episode)
            _print_shortages(programs, title, where, config)
            return Plan(title, programs, {"config": args.config, "topology": topology, **figures})
    raise ValueError(
        f"{args.config}: nothing found that fits {topology} and that train.py would start there; "
        "take a larger slice"
    )


def _plan_model(args: argparse.Namespace, model: str, topology: str) -> Plan:
    """Plans programs of a published model on one slice, without a run."""
    where, title = slices.find(topology), f"{model} on {topology}"
    chosen = []
    for program in args.program or PROGRAMS:
        if program == "rollout":
            shapes = RolloutShapes(
                slots=args.slots, capacity=args.capacity, chunk=64, prefill_rows=4, extend_rows=8
            )
            chosen.append(rollout_phase(model, where, args.tensor, shapes))
        elif program in PROGRAMS:
            phase = model_phase(model, where, args.tensor, program, args.length, args.windows)
            chosen.append(phase)
        else:
            known = ", ".join((*PROGRAMS, "rollout"))
            raise ValueError(f"program {program!r}: of a model there are {known}")
    compile_ = partial(_compile, f"{model} for {topology}", None)
    programs = list(plan(chosen, where.chip, {}, compile_))
    print_tables(title, programs)
    _print_shortages(programs, title, where)
    return Plan(title, programs)


def _compile(what: str, again: Sequence[str] | None, program: Uncompiled) -> Compiled:
    """Compiles to the end. If flags that plan the run `again` are given, only until memory is
    assigned."""
    with progress.waiting(f"compiling {program.name}, {what}"):
        if again is None:
            return compiled(program)
        command = (sys.executable, "-m", __name__, *again, "--dump", program.name)
        return assigned(program, command)


def _compile_into(
    args: argparse.Namespace, overrides: Sequence[str], name: str, folder: str
) -> None:
    """Compiles in the process that `assigned` starts. `assigned` ends the process once memory is
    assigned."""
    config = override(load_config(args.config, CONFIGS), overrides)
    run = PlannedRun.of(config, slices.find(args.topology[0]))
    for phase in phases(run, [name]):
        for program in phase.programs:
            compile_into(program, Path(folder))
            return


def _print_shortages(
    programs: Iterable[PlannedProgram],
    title: str,
    where: slices.Slice,
    config: TrainConfig | None = None,
) -> None:
    for program in programs:
        if not program.fits:
            remedy = advice(program.phase, where, config)
            print(
                f"error: {program.program} does not fit, {title} ({program.shortage}): {remedy}",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())
