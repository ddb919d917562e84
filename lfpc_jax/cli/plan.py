"""What a published size needs on a TPU slice, asked of the TPU compiler with no TPU present.

    plan.py --model 3b 7b --topology v5e:2x4 v5p:2x2x2

Compiles the real forward and the real forward-backward (see lfpc_jax/plan/programs.py), splash
attention included, and prints the compiler's memory a chip. Exits with 1 if one does not fit.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lfpc_jax.cli import progress
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.model import config
from lfpc_jax.plan import programs, slices


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

    @property
    def fits(self) -> bool:
        return self.compiled is not None and self.compiled.bytes_per_chip <= self.hbm_bytes


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        jobs = [
            (model, slices.tpu_slice(topology), program)
            for model in args.model
            for topology in args.topology
            for program in args.program
        ]
        rows = []
        for model, tpu, program in jobs:
            with progress.waiting(f"compiling {program} of {model} for {tpu.name}"):
                rows.append(_row(model, tpu, program, args))
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
                "lower --length, raise --tensor, or take a larger slice",
                file=sys.stderr,
            )
    return 0 if all(row.fits for row in rows) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", required=True, help="3b, 7b, 32b, 72b")
    parser.add_argument("--topology", nargs="+", required=True, help="as v5e:2x4 or v5p:2x2x2")
    parser.add_argument(
        "--program", nargs="+", choices=programs.PROGRAMS, default=list(programs.PROGRAMS)
    )
    parser.add_argument("--tensor", type=int, default=1, help="tensor-parallel ways; fsdp the rest")
    parser.add_argument("--length", type=int, default=4096, help="tokens of each fsdp group's row")
    parser.add_argument("--windows", type=int, default=66, help="of each row's one image")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser


def _row(model: str, tpu: slices.Slice, program: str, args: argparse.Namespace) -> Row:
    mesh = make_mesh(fsdp=-1, tensor=args.tensor, devices=tpu.devices)
    rows = mesh.shape["fsdp"]
    cfg = config.published(model, kernel="splash", remat="full")
    sizes = programs.Sizes(rows=rows, length=args.length, images=rows, windows=args.windows)
    compiled, refusal = None, ""
    try:
        compiled = programs.PROGRAMS[program](cfg, mesh, sizes)
    except programs.OutOfMemory as error:
        refusal = f"({error})"
    sides = (mesh.shape["data"], rows, mesh.shape["tensor"])
    return Row(model, tpu.name, sides, program, tpu.hbm_bytes, compiled, refusal)


def _print(rows: Sequence[Row], args: argparse.Namespace) -> None:
    title = f"GiB a chip: one row of {args.length:,} tokens and one image an fsdp group, full remat"
    table = Table(title=title)
    names = ("model", "slice", "data x fsdp x tensor", "program", "arguments", "temporary", "all")
    for name in (*names, "HBM", "fits", "compiled in"):
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
            seconds,
        )
    console = Console()
    console.width = max(console.width, 110)  # a narrow pipe would cut the figures
    console.print(table)
