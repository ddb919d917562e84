"""A plan as tables for people."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lfpc_jax.plan.slices import GIB, Slice
from lfpc_jax.plan.training import Planned
from lfpc_jax.plan.work import Workload
from lfpc_jax.run.config import TrainConfig

KINDS = ("parameters", "moments", "cache", "inputs", "activations")
_WIDTH = 132


def print_tables(title: str, rows: Sequence[Planned]) -> None:
    console = Console()
    console.width = max(console.width, _WIDTH)  # a narrow pipe would cut the figures
    console.print(f"\n{title}", style="bold", markup=False)
    console.print(_memory(rows))
    console.print(_work(rows))
    most = max(rows, key=lambda row: row.bytes_per_chip or 0)
    if most.compiled and most.compiled.largest:
        arrays = (f"{shape} {_gib(size)}" for shape, size in most.compiled.largest.items())
        console.print(f"largest temporaries of {most.program}, GiB: {', '.join(arrays)}")


def _memory(rows: Sequence[Planned]) -> Table:
    """All but what others hold is the compiler's own."""
    names = ("mesh", *KINDS, "others", "all", "of", "fits", "compiled")
    table = _table("program", names, "GiB a chip, the compiler's")
    for row in rows:
        table.add_row(
            row.program,
            "x".join(map(str, row.mesh)),
            *(_gib(row.kinds.get(kind)) for kind in KINDS),
            _gib(row.beside),
            _gib(row.bytes_per_chip) if row.compiled else "-",
            _gib(row.hbm_bytes),
            "yes" if row.fits else "NO",
            f"{row.compiled.compile_seconds:.0f} s" if row.compiled else "-",
        )
    return table


def _work(rows: Sequence[Planned]) -> Table:
    names = ("TFLOP", "compiler's", "GB moved", "compiler's", "GB sent", "by", "ms at least")
    title = "One call on a chip (the compiler counts a loop once), and a step"
    table = _table("program", (*names, "calls", "s a step"), title)
    for row in rows:
        if row.compiled is None:
            continue
        c, load, least = row.compiled, row.load, row.estimate
        table.add_row(
            row.program,
            f"{load.flops / 1e12:.2f}" if load else "-",
            f"{c.compiler_flops / 1e12:.2f}",
            f"{load.bytes / 1e9:.2f}" if load else "-",
            f"{c.compiler_bytes / 1e9:.2f}",
            f"{sum(c.sent.values()) / 1e9:.2f}",
            least.bound if least else "-",
            f"{1e3 * least.seconds:,.1f}" if least else "-",
            f"{load.calls:,.1f}" if load else "-",
            f"{row.seconds_a_step:,.1f}" if row.seconds_a_step is not None else "-",
        )
    return table


def print_step(
    config: TrainConfig, where: Slice, rows: Sequence[Planned], load: Workload
) -> dict[str, Any]:
    """The least seconds of a step and chip-hours of the run, where the chip's peaks are known."""
    seconds = {"rollout": 0.0, "update": 0.0}
    for row in rows:
        phase = "rollout" if row.phase == "rollout" else "update"
        seconds[phase] += row.seconds_a_step or 0.0
    chips, compiled = len(where.devices), sum(row.compile_seconds for row in rows)
    step = sum(seconds.values())
    hours = config.steps * step * chips / 3600
    print(f"compiled in {compiled:.0f} s")
    if step:
        print(
            f"a step on {chips} chips takes {step:,.1f} s at least: rollout "
            f"{seconds['rollout']:,.1f}, update {seconds['update']:,.1f}; {config.steps} steps "
            f"{hours:,.0f} chip-hours\n(peaks of compute, memory and wire; episodes of "
            f"{load.sampled} sampled tokens and {load.crops} crops, all slots always busy)"
        )
    return {
        "chips": chips,
        "steps": config.steps,
        "seconds_a_step": seconds,
        "chip_hours": hours,
        "compile_seconds": compiled,
    }


def _table(first: str, names: Sequence[str], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    return table


def _gib(size: int | None) -> str:
    return f"{size / GIB:.2f}" if size else "-"
