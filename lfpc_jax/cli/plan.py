"""What a published size needs on a TPU slice, asked of the TPU compiler with no TPU present.

    plan.py --model 3b 7b --topology v5e:2x4 v5p:2x2x2

Compiles the real forward and the real forward-backward (see lfpc_jax/plan/programs.py), splash
attention included, and prints the compiler's memory a chip. Exits with 1 if one does not fit.

    plan.py --model 7b --topology v5e:2x4 --program rollout --tensor 4 --slots 128 --capacity 8192

does so for the rollout engine's programs, weights whole in every data-parallel group.

    plan.py --config stage1.py --topology v5p:2x2x4 [--rollout.tensor 4 ...]

compiles every program of a training run at its largest: those of one host's rollouts, and the
update of the whole slice. A model folder that is not here is taken by the size in its name.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lfpc_jax.cli import progress
from lfpc_jax.cli.overrides import load_config, override
from lfpc_jax.cli.plan_config import ADVICE, compile_config
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.config import check
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config
from lfpc_jax.plan import programs, slices
from lfpc_jax.plan.rollout import compile_rollout
from lfpc_jax.shapes import RolloutShapes


@dataclass(frozen=True)
class Row:
    """A program on a slice; `compiled` is None where the compiler ran out of its memory."""

    model: str
    topology: str
    mesh: tuple[int, int, int]
    program: str
    hbm_bytes: int
    compiled: programs.Compiled | None
    refusal: str
    advice: str = "lower --length, raise --tensor, or take a larger slice"
    flops_per_chip: float | None = None

    @property
    def fits(self) -> bool:
        return self.compiled is not None and self.compiled.bytes_per_chip <= self.hbm_bytes


def main(argv: Sequence[str] | None = None) -> int:
    args, words = _parser().parse_known_args(argv)
    try:
        rows = _rows_of_config(args, words) if args.config else _rows_of_models(args, words)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    _print(rows, args)
    if args.json:
        made = [{**asdict(row), "fits": row.fits} for row in rows]
        args.json.write_text(json.dumps({"programs": made}, indent=2) + "\n")
    for row in rows:
        if not row.fits:
            print(
                f"error: {row.program} of {row.model} does not fit {row.topology} {row.refusal}: "
                f"{row.advice}",
                file=sys.stderr,
            )
    return 0 if all(row.fits for row in rows) else 1


def _rows_of_config(args: argparse.Namespace, words: Sequence[str]) -> list[Row]:
    settings = override(load_config(args.config, CONFIGS), words)
    check(settings)
    rows = []
    for name in args.topology:
        tpu, kind, sides = slices.tpu_slice(name), "rollout", (1, 1, 1)
        many = compile_config(settings, tpu)
        while True:
            try:
                with progress.waiting(f"compiling {args.config} for {name}"):
                    planned = next(many, None)
            except programs.OutOfMemory as error:
                rows.append(
                    Row(
                        args.config,
                        name,
                        sides,
                        f"a program of the {kind}",
                        tpu.hbm_bytes,
                        None,
                        f"({error})",
                        ADVICE[kind],
                    )
                )
                break
            if planned is None:
                break
            kind, shape = planned.kind, planned.mesh.shape
            sides = (shape["data"], shape["fsdp"], shape["tensor"])
            rows.append(
                Row(
                    args.config,
                    name,
                    sides,
                    planned.compiled.program,
                    tpu.hbm_bytes,
                    planned.compiled,
                    "",
                    ADVICE[kind],
                    planned.flops_per_chip,
                )
            )
    return rows


def _rows_of_models(args: argparse.Namespace, words: Sequence[str]) -> list[Row]:
    if words or not args.model:
        raise ValueError(f"unknown {words}; give --model SIZES, or --config and its overrides")
    return [
        row
        for model in args.model
        for topology in args.topology
        for program in args.program
        for row in _rows(model, slices.tpu_slice(topology), program, args)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", nargs="+", help="3b, 7b, 32b, 72b")
    parser.add_argument("--config", metavar="FILE", help="of a training run, or a name in configs/")
    parser.add_argument("--topology", nargs="+", required=True, help="as v5e:2x4 or v5p:2x2x2")
    parser.add_argument(
        "--program",
        nargs="+",
        choices=(*programs.PROGRAMS, "rollout"),
        default=list(programs.PROGRAMS),
    )
    parser.add_argument("--tensor", type=int, default=1, help="tensor-parallel ways; fsdp the rest")
    parser.add_argument("--length", type=int, default=4096, help="tokens of each fsdp group's row")
    parser.add_argument("--windows", type=int, default=66, help="of each row's one image")
    parser.add_argument("--slots", type=int, default=128, help="of the rollout engine")
    parser.add_argument("--capacity", type=int, default=8192, help="ids of an episode")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser


def _rows(model: str, tpu: slices.Slice, program: str, args: argparse.Namespace) -> Iterator[Row]:
    cfg = config.published(model, kernel="splash", remat="full")
    if program == "rollout":
        mesh = make_mesh(data=-1, tensor=args.tensor, devices=tpu.devices)
        many = compile_rollout(cfg, mesh, _rollout_shapes(args))
    else:
        mesh = make_mesh(fsdp=-1, tensor=args.tensor, devices=tpu.devices)
        rows = mesh.shape["fsdp"]
        sizes = programs.Sizes(rows=rows, length=args.length, images=rows, windows=args.windows)
        many = (compile_one(cfg, mesh, sizes) for compile_one in [programs.PROGRAMS[program]])
    sides = (mesh.shape["data"], mesh.shape["fsdp"], mesh.shape["tensor"])
    while True:
        try:
            with progress.waiting(f"compiling {program} of {model} for {tpu.name}"):
                compiled = next(many, None)
        except programs.OutOfMemory as error:
            yield Row(model, tpu.name, sides, program, tpu.hbm_bytes, None, f"({error})")
            return
        if compiled is None:
            return
        yield Row(model, tpu.name, sides, compiled.program, tpu.hbm_bytes, compiled, "")


def _rollout_shapes(args: argparse.Namespace) -> RolloutShapes:
    return RolloutShapes(
        slots=args.slots, capacity=args.capacity, chunk=64, prefill_rows=4, extend_rows=8
    )


def _print(rows: Sequence[Row], args: argparse.Namespace) -> None:
    title = (
        f"GiB a chip. forward, gradient: one row of {args.length:,} tokens and one image an fsdp "
        f"group, full remat; rollout: {args.slots} slots of {args.capacity:,}"
    )
    table = Table(title=title)
    names = ("model", "slice", "data x fsdp x tensor", "program", "arguments", "temporary", "all")
    for name in (*names, "HBM", "fits", "TFLOP", "compiled in"):
        table.add_column(name, justify="right")
    for row in rows:
        figures = ["-", "-", row.refusal or "-"]
        seconds = "-"
        if row.compiled is not None:
            c = row.compiled
            bytes_ = (c.argument_bytes, c.temporary_bytes, c.bytes_per_chip)
            figures = [f"{n / slices.GIB:.2f}" for n in bytes_]
            seconds = f"{c.compile_seconds:.0f} s"
        table.add_row(
            row.model,
            row.topology,
            " x ".join(map(str, row.mesh)),
            row.program,
            *figures,
            f"{row.hbm_bytes / slices.GIB:.0f}",
            "yes" if row.fits else "NO",
            "-" if row.flops_per_chip is None else f"{row.flops_per_chip / 1e12:,.0f}",
            seconds,
        )
    console = Console()
    console.width = max(console.width, 110)  # a narrow pipe would cut the figures
    console.print(table)
