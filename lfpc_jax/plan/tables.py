"""A plan as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lfpc_jax.plan.chips import GIB
from lfpc_jax.plan.episodes import PlannedEpisode
from lfpc_jax.plan.planned import PlannedProgram

KINDS = ("parameters", "moments", "gradients", "prompts", "own", "inputs", "activations")
"""`prompts` and `own` are the two parts of the rollouts' cache."""
_WIDTH = 150


def print_tables(title: str, rows: Sequence[PlannedProgram]) -> None:
    console = Console()
    console.width = max(console.width, _WIDTH)  # a narrow pipe would cut the figures
    console.print(f"\n{title}", style="bold", markup=False)
    console.print(_memory(rows))
    console.print(_work(rows))
    most = max(rows, key=lambda row: row.bytes_per_chip or 0)
    if most.compiled and most.compiled.largest:
        arrays = (f"{shape} {_gib(size)}" for shape, size in most.compiled.largest.items())
        console.print(f"largest temporaries of {most.program}, GiB: {', '.join(arrays)}")


def _memory(rows: Sequence[PlannedProgram]) -> Table:
    """Memory by kind. All figures but what others hold are the compiler's own."""
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


def _work(rows: Sequence[PlannedProgram]) -> Table:
    names = ("TFLOP", "compiler's", "GB moved", "compiler's", "GB sent", "between", "by",
             "ms at least")  # fmt: skip
    title = (
        "One call on a chip (the compiler counts a loop once; between slices or hosts is a part of "
        "what is sent), and a step"
    )
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
            f"{between / 1e9:.2f}" if (between := sum(c.between.values())) else "-",
            least.bound if least else "-",
            f"{1e3 * least.seconds:,.1f}" if least else "-",
            f"{load.calls:,.1f}" if load else "-",
            f"{row.seconds_a_step:,.1f}" if row.seconds_a_step is not None else "-",
        )
    return table


def print_step(figures: Mapping[str, Any], episode: PlannedEpisode) -> None:
    """Prints the least seconds of a step and the chip-hours of the run, if the chip's peaks are
    known."""
    layout, update = figures["layout"], figures["update"]
    seconds = figures["seconds_a_step"]
    saved, cache = figures["remat"], figures["cache"]
    between = sum(update["between"].values())
    print(
        f"rollouts of a host: {cache['prompts']} prompts in memory, of at most "
        f"{cache['prompt_ids']:,} ids, {_gib(cache['prompt_bytes'])} GiB a chip; {cache['slots']} "
        f"slots with room for {cache['own_ids']:,} ids after their prompts, "
        f"{_gib(cache['own_bytes'])} GiB a chip"
        + (", and as much for working copies during decode" if cache["working_bytes"] else "")
    )
    print(
        f"updates save: {saved['text']}, of the vision tower {saved['tower']} ({saved['reason']})"
    )
    print(
        f"a shard's mini-batch: {layout['rows']} rows of {layout['row_tokens']} tokens, filled to "
        f"{layout['fill']:.2f} (expected fill), and room for {layout['pictures']} pictures, filled "
        f"to {layout['windows_fill']:.2f} (expected windows_fill); a prompt is computed "
        f"{layout['prompts_computed']:.1f} times, a token attends to {layout['keys']:,.0f} keys"
    )
    print(
        f"an update on a chip: {update['flops'] / 1e12:,.0f} TFLOP, {update['bytes'] / 1e9:,.0f} "
        f"GB moved, {sum(update['sent'].values()) / 1e9:,.0f} GB sent"
        + (f" ({between / 1e9:,.1f} between slices or hosts)" if between else "")
        + ", in the programs above"
    )
    print(f"compiled in {figures['compile_seconds']:.0f} s")
    if step := sum(seconds.values()):
        parts = ", ".join(f"{phase} {part:,.1f}" for phase, part in seconds.items())
        print(
            f"a step on {figures['chips']} chips takes {step:,.1f} s at least: {parts}; "
            f"{figures['steps']} steps {figures['chip_hours']:,.0f} chip-hours\n"
            "(peaks of compute, memory, wire and network; "
            f"episodes of {episode.sampled} sampled tokens and {episode.crops} crops, all slots "
            "always busy)"
        )


def _table(first: str, names: Sequence[str], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    return table


def _gib(size: int | None) -> str:
    return f"{size / GIB:.2f}" if size else "-"
