"""Compiling a program for devices that need not be there, and reading what the compiler decided.

Memory is that of the compiler's buffer assignment, which it writes with `xla_dump_to`: what decides
whether a program fits. (JAX's `memory_analysis` counts a TPU heap's fragmentation twice.)

The TPU compiler optimises and assigns memory in the first tenth of its time; the rest writes code,
fusion by fusion. So `assigned` compiles in a process of its own and ends it there: memory and wire
are those of the whole compilation, only the compiler's own FLOPs and bytes are missing.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from lfpc_jax.plan.collectives import collectives, sent
from lfpc_jax.plan.programs import Source

_LAST = "*after_optimizations_after_buffer_assignment.txt"
"""What the TPU compiler writes when all that is read here is there."""


@dataclass(frozen=True)
class Compiled:
    """`held` is what the arguments hold, by kind, in bytes a chip; `sent` what a chip sends over
    the wire in one run, by kind of collective. The compiler's own FLOPs and bytes count the body
    of a loop once; they are 0 where compilation ended early."""

    program: str
    bytes_per_chip: int
    argument_bytes: int
    temporary_bytes: int
    aliased_bytes: int
    held: Mapping[str, int]
    sent: Mapping[str, int]
    compiler_flops: float
    compiler_bytes: float
    compile_seconds: float

    @property
    def kinds(self) -> Mapping[str, int]:
        """All of it by kind: gradients, copies and results count among the activations."""
        return {**self.held, "activations": self.bytes_per_chip - sum(self.held.values())}


class OutOfMemory(Exception):
    """The compiler found no way to fit the program; its text says what was used of what."""


def compiled(source: Source) -> Compiled:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        try:
            cost = compile_into(source, Path(name)).cost_analysis() or {}
        except jax.errors.JaxRuntimeError as error:
            raise _refused(str(error)) from error
        return _read(source, Path(name), time.perf_counter() - start, cost)


def assigned(source: Source, command: Sequence[str]) -> Compiled:
    """`command`, with a folder as its last word, runs `compile_into` for this program."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as errors:
        folder = Path(name)
        process = subprocess.Popen([*command, name], stdout=errors, stderr=errors)
        try:
            while not any(folder.glob(_LAST)):
                if process.poll() is not None and not any(folder.glob(_LAST)):
                    errors.seek(0)
                    raise _refused(errors.read())
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        return _read(source, folder, time.perf_counter() - start, {})


def compile_into(source: Source, folder: Path) -> Any:
    options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    return source.lower().compile(compiler_options=options)


def _read(source: Source, folder: Path, seconds: float, cost: Mapping[str, float]) -> Compiled:
    program = next(folder.glob("*after_optimizations.txt")).read_text()
    memory = next(folder.glob("*after_optimizations-buffer-assignment.txt")).read_text()
    whole, arguments, aliased, temporary = 0, 0, 0, 0
    for line in re.findall(r"^allocation \d+: .*", memory, re.MULTILINE):
        if ", color " in line:  # not the chip's main memory
            continue
        size = int(re.search(r"size (\d+)", line).group(1))  # type: ignore[union-attr]
        whole += size
        arguments += size if ", parameter " in line else 0
        aliased += size if ", parameter " in line and "maybe-live-out" in line else 0
        temporary += size if "preallocated-temp" in line else 0
    return Compiled(
        program=source.name,
        bytes_per_chip=whole,
        argument_bytes=arguments,
        temporary_bytes=temporary,
        aliased_bytes=aliased,
        held=source.held,
        sent=sent(collectives(program)),
        compiler_flops=cost.get("flops", 0.0),
        compiler_bytes=cost.get("bytes accessed", 0.0),
        compile_seconds=seconds,
    )


def _refused(error: str) -> Exception:
    """The compiler's error as what to raise."""
    if "RESOURCE_EXHAUSTED" not in error:
        return RuntimeError(error)
    for pattern in (r"Used \S+ of \S+ hbm", r"temporaries \(\S+\) exceeds available HBM \(\S+\)"):
        if used := re.search(pattern, error):
            return OutOfMemory(used.group())
    return OutOfMemory(error.splitlines()[0])
