"""Compiles a program for devices that need not be there, and reads what the compiler decided.

Memory is that of the compiler's buffer assignment, which it writes with `xla_dump_to`. That
assignment decides whether a program fits. (JAX's `memory_analysis` counts the fragmentation of a
TPU's heap twice.)

The compilers for TPUs and GPUs optimise and assign memory in the first part of their time, a tenth
on TPUs; in the rest they write code, fusion by fusion. So `assigned` compiles in a process of its
own and ends it when memory is assigned. Memory and bytes sent are those of the whole compilation;
only the compiler's own FLOPs and bytes are missing.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from lfpc_jax import stopping
from lfpc_jax.model import attention_cudnn
from lfpc_jax.plan.collectives import collectives, sent, sent_between
from lfpc_jax.plan.programs import Uncompiled
from lfpc_jax.plan.traffic import traffic

_ASSIGNMENT = "*after_optimizations-buffer-assignment.txt"
_LAST = (
    "*after_optimizations_after_buffer_assignment.txt",
    "*gpu_after_optimizations-memory-usage-report.txt",
)
"""The files that the compilers for TPUs and for GPUs write after all others that are read here."""
_LARGEST = 8


@dataclass(frozen=True)
class Compiled:
    """What the compiler decided about a program. `held` is what the arguments hold, by kind, in
    bytes per chip. `sent` is what a chip sends to others in one run, by kind of collective, and
    `between` is what of it goes to other slices or hosts. `largest` are the largest arrays among
    the temporaries, by shape, where the compiler wrote them down. The compiler's own FLOPs and
    bytes count the body of a loop once; they are 0 where compilation ended early. `moved` is what a
    program for a GPU reads and writes at most, all branches taken, by scope (`traffic`)."""

    program: str
    bytes_per_chip: int
    argument_bytes: int
    temporary_bytes: int
    aliased_bytes: int
    largest: Mapping[str, int]
    held: Mapping[str, int]
    sent: Mapping[str, int]
    between: Mapping[str, int]
    moved: Mapping[str, int]
    compiler_flops: float
    compiler_bytes: float
    compile_seconds: float

    @property
    def kinds(self) -> Mapping[str, int]:
        """All memory by kind. Gradients, copies and results count as activations."""
        return {**self.held, "activations": self.bytes_per_chip - sum(self.held.values())}


@dataclass(frozen=True)
class Machine:
    """What the compiler or the reader of its text must know of the devices and finds in no program:
    compiler options, the host of each device where a slower network joins hosts, and CUDA's
    capability of a GPU that is not there."""

    options: Mapping[str, Any] = field(default_factory=dict)
    hosts: tuple[int, ...] = ()
    capability: tuple[int, int] | None = None


_ANY = Machine()


class OutOfMemory(Exception):
    """The compiler found no way to fit the program. The text says what was used of what."""


def compiled(program: Uncompiled, machine: Machine = _ANY) -> Compiled:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        try:
            executable = compile_into(program, Path(name), machine)
        except jax.errors.JaxRuntimeError as error:
            raise _refused(str(error)) from error
        # Nothing is written of what a cache of compiled programs holds.
        cached = not any(Path(name).glob(_ASSIGNMENT))
        memory = _reported(executable) if cached else _assignment(Path(name))
    text, cost = executable.as_text(), executable.cost_analysis() or {}
    return _compiled(program, memory, text, cost, start, machine)


def assigned(program: Uncompiled, command: Sequence[str], machine: Machine = _ANY) -> Compiled:
    """Compiles until memory is assigned. `command`, with a folder as its last word, runs
    `compile_into` for this program."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as errors:
        folder = Path(name)
        process = subprocess.Popen(
            [*command, name], stdout=errors, stderr=errors, env=stopping.environment_of_commands()
        )
        try:
            while not _is_assigned(folder):
                if process.poll() is not None and not _is_assigned(folder):
                    errors.seek(0)
                    raise _refused(errors.read())
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        text = next(folder.glob("*after_optimizations.txt")).read_text()
        return _compiled(program, _assignment(folder), text, {}, start, machine)


def _is_assigned(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in _LAST)


def compile_into(program: Uncompiled, folder: Path, machine: Machine = _ANY) -> Any:
    options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True, **machine.options}
    with attention_cudnn.compiled_for(machine.capability):
        return program.lower().compile(compiler_options=options)


def _assignment(folder: Path) -> dict[str, Any]:
    text = next(folder.glob(_ASSIGNMENT)).read_text()
    sizes = dict.fromkeys(
        ("bytes_per_chip", "argument_bytes", "temporary_bytes", "aliased_bytes"), 0
    )
    arrays: dict[str, int] = {}
    for allocation in re.split(r"^allocation \d+: ", text, flags=re.MULTILINE)[1:]:
        line = allocation.splitlines()[0]
        if ", color " in line:  # not the chip's main memory
            continue
        size = int(re.search(r"size (\d+)", line).group(1))  # type: ignore[union-attr]
        argument = ", parameter " in line
        sizes["bytes_per_chip"] += size
        sizes["argument_bytes"] += size if argument else 0
        sizes["aliased_bytes"] += size if argument and "maybe-live-out" in line else 0
        if "preallocated-temp" in line:
            sizes["temporary_bytes"] += size
            values = re.findall(r"^ value: .*\(size=(\d+),.*?\): (\w+\[[\d,]*\])", allocation, re.M)
            arrays |= {shape: int(held) for held, shape in values if int(held)}
    largest = sorted(arrays.items(), key=lambda item: -item[1])[:_LARGEST]
    return {**sizes, "largest": dict(largest)}


def _reported(executable: Any) -> dict[str, Any]:
    memory = executable.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return {
        "bytes_per_chip": used + results,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "aliased_bytes": memory.alias_size_in_bytes,
        "largest": {},
    }


def _compiled(
    program: Uncompiled,
    memory: Mapping[str, Any],
    text: str,
    cost: Mapping[str, float],
    start: float,
    machine: Machine,
) -> Compiled:
    exchanges = collectives(text, machine.hosts)
    return Compiled(
        program=program.name,
        **memory,
        held=program.held,
        sent=sent(exchanges),
        between=sent_between(exchanges),
        moved=dict(traffic(text, max)) if machine.capability else {},
        compiler_flops=cost.get("flops", 0.0),
        compiler_bytes=cost.get("bytes accessed", 0.0),
        compile_seconds=time.perf_counter() - start,
    )


def _refused(error: str) -> Exception:
    """The exception to raise for an error of the compiler."""
    if "RESOURCE_EXHAUSTED" not in error:
        return RuntimeError(error)
    for pattern in (r"Used \S+ of \S+ hbm", r"temporaries \(\S+\) exceeds available HBM \(\S+\)"):
        if used := re.search(pattern, error):
            return OutOfMemory(used.group())
    return OutOfMemory(error.splitlines()[0])
