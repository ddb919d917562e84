"""What a training run needs on a TPU slice, asked of the TPU compiler with no TPU present.

    plan.py --config stage1.py --topology v5p:2x2x4 [--rollout.tensor 4 ...] [--json FILE]

compiles every program of the run for the slice (or for cpu:8, or for this machine's gpu): a host's
rollouts at their largest, the resharding, the scoring and the update of the whole slice. Prints
memory a chip by kind, FLOPs, bytes and what goes over the wire, the least seconds that a step can
take, and compile times. A model folder that is not here is taken by the size in its name. Exits
with 1, and says which setting to change, if a program does not fit.

    plan.py --config stage1.py --topology v5e:4x8 --search

proposes mesh, remat, rows and slots, compiled and found to fit.

    plan.py --model 3b 7b --topology v5e:2x4 v5p:2x2x2

compiles only the forward and the forward-backward (lfpc_jax/plan/programs.py) of published sizes;
with `--program rollout --tensor 4 --slots 128 --capacity 8192` the rollout engine's programs.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from lfpc_jax.distributed.mesh import make_mesh, rollout_mesh
from lfpc_jax.model import config
from lfpc_jax.plan import programs, slices
from lfpc_jax.plan.compiling import Compiled, assigned, compile_into, compiled
from lfpc_jax.plan.rollout import rollout_programs
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.table import print_step, print_tables
from lfpc_jax.plan.training import (
    Phase,
    Planned,
    Run,
    advice,
    check_there,
    phases,
    plan,
    workload,
)
from lfpc_jax.plan.work import Workload
from lfpc_jax.rollout.sampling import Sampling
from lfpc_jax.run import progress
from lfpc_jax.run.config import TrainConfig
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.config_files import CONFIGS, load_config
from lfpc_jax.run.overrides import override
from lfpc_jax.shapes import RolloutShapes


def main(argv: Sequence[str] | None = None) -> int:
    args, words = _parser().parse_known_args(argv)
    try:
        if args.config:
            made = [_config(args, words, name) for name in args.topology]
        elif words or not args.model:
            raise ValueError(f"unknown {words}; give --model SIZES, or --config and its overrides")
        else:
            made = [_models(args, model, name) for model in args.model for name in args.topology]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        rows = [row for _, rows in made for row in rows]
        whole = {"runs": [run for run, _ in made if run], "programs": rows}
        args.json.write_text(json.dumps(whole, indent=2) + "\n")
    return 0 if all(row["fits"] for _, rows in made for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="With --config, further flags override its settings, as --rollout.slots 32.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="of a training run, or a name in "
                        "configs/; a size may follow, as in stage1.py:3b")  # fmt: skip
    parser.add_argument("--topology", nargs="+", required=True, help="as v5e:2x4, cpu:8 or gpu")
    parser.add_argument("--search", action="store_true", help="propose mesh, remat, rows and slots")
    parser.add_argument("--program", nargs="+", metavar="NAME", help="only these: of a config "
                        "encode to update; else forward, gradient or rollout")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="end when memory is assigned: all but "
                        "the compiler's own FLOPs, in a tenth of the time (TPUs)")  # fmt: skip
    parser.add_argument("--dump", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    usual = Workload()
    episode = parser.add_argument_group("an episode, assumed for the seconds of a step")
    episode.add_argument("--sampled", type=int, metavar="TOKENS", help="over all turns; default: "
                         f"{usual.sampled}, or all that the config's limits allow")  # fmt: skip
    episode.add_argument("--crops", type=int, metavar="N", help=f"default: {usual.crops}, or none "
                         "where there is one turn")  # fmt: skip
    alone = parser.add_argument_group("without a config")
    alone.add_argument("--model", nargs="+", help="3b, 7b, 32b, 72b")
    alone.add_argument("--tensor", type=int, default=1, help="tensor-parallel ways; fsdp the rest")
    alone.add_argument("--length", type=int, default=4096, help="tokens of each fsdp group's row")
    alone.add_argument("--windows", type=int, default=66, help="of each row's one image")
    alone.add_argument("--slots", type=int, default=128, help="of the rollout engine")
    alone.add_argument("--capacity", type=int, default=8192, help="ids of an episode")
    return parser


def _config(args: argparse.Namespace, words: Sequence[str], topology: str) -> tuple[dict, list]:
    """The run on one slice, printed; its figures, and those of its programs."""
    settings = override(load_config(args.config, CONFIGS), words)
    where, load = slices.find(topology), workload(settings, args.sampled, args.crops)
    if args.dump:
        _dump(settings, where, *args.dump)
        raise SystemExit
    tried = proposals(settings, where, load) if args.search else iter([((), settings)])
    for flags, proposed in tried:
        _check(proposed, where)
        own = ("--config", args.config, "--topology", topology, *words, *flags)
        rows = list(_planned(args, Run.of(proposed, where), load, own))
        title = " ".join((args.config, "on", topology, *words, *flags))
        print_tables(title, rows)
        if all(row.fits for row in rows) or not args.search:
            figures = print_step(proposed, where, rows, load)
            _refuse(rows, title, where, proposed)
            return {"config": args.config, "topology": topology, **figures}, _json(rows, title)
    raise ValueError(
        f"{args.config}: nothing found that fits {topology} and that train.py would start there; "
        "take a larger slice"
    )


def _check(settings: TrainConfig, where: slices.Slice) -> None:
    """As `train.py` would there, with one process a host."""
    check(settings, processes=where.hosts)
    check_there(settings, where)


def _planned(
    args: argparse.Namespace, run: Run, load: Workload, own: Sequence[str]
) -> Iterator[Planned]:
    for phase in phases(run, args.program):
        what = f"{phase.name} of {args.config} for {run.slice.name}"
        how = partial(_compile, what, own if args.quick else None)
        yield from plan(phase, run.slice.chip, run.loads(load), how)


def _models(args: argparse.Namespace, model: str, topology: str) -> tuple[dict, list]:
    where = slices.find(topology)
    rows = [
        one
        for program in args.program or programs.PROGRAMS
        for one in plan(
            _of_model(args, model, where, program),
            where.chip,
            {},
            partial(_compile, f"{model} for {topology}", None),
        )
    ]
    print_tables(f"{model} on {topology}", rows)
    _refuse(rows, f"{model} on {topology}", where)
    return {}, _json(rows, f"{model} on {topology}")


def _of_model(args: argparse.Namespace, model: str, where: slices.Slice, program: str) -> Phase:
    cfg = config.published(model, kernel="splash", remat="full")
    if program not in (known := (*programs.PROGRAMS, "rollout")):
        raise ValueError(f"program {program!r}: of a model there are {', '.join(known)}")
    if program == "rollout":
        mesh = rollout_mesh(args.tensor, devices=where.devices)
        shapes = RolloutShapes(
            slots=args.slots, capacity=args.capacity, chunk=64, prefill_rows=4, extend_rows=8
        )
        return Phase("rollout", mesh, rollout_programs(cfg, mesh, shapes, Sampling(top_p=0.95)))
    mesh = make_mesh(fsdp=-1, tensor=args.tensor, devices=where.devices)
    rows = mesh.shape["fsdp"]
    sizes = programs.Sizes(rows, args.length, images=rows, windows=args.windows)
    return Phase("model", mesh, iter([programs.PROGRAMS[program](cfg, mesh, sizes)]))


def _compile(what: str, own: Sequence[str] | None, source: programs.Source) -> Compiled:
    """With the flags of the run, only until memory is assigned."""
    with progress.waiting(f"compiling {source.name}, {what}"):
        if own is None:
            return compiled(source)
        return assigned(source, (sys.executable, "-m", __name__, *own, "--dump", source.name))


def _dump(settings: TrainConfig, where: slices.Slice, name: str, folder: str) -> None:
    """The process that `assigned` starts and ends."""
    for phase in phases(Run.of(settings, where)):
        for source in phase.programs:
            if source.name == name:
                compile_into(source, Path(folder))
                return


def _refuse(
    rows: Sequence[Planned], what: str, where: slices.Slice, settings: TrainConfig | None = None
) -> None:
    for row in rows:
        if not row.fits:
            remedy = advice(row.phase, where, settings)
            print(
                f"error: {row.program} does not fit, {what} ({row.shortage}): {remedy}",
                file=sys.stderr,
            )


def _json(rows: Sequence[Planned], what: str) -> list[dict]:
    return [{"what": what, **row.figures} for row in rows]


if __name__ == "__main__":
    sys.exit(main())
