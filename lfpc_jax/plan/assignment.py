"""A program's memory without its machine code.

The TPU compiler optimises and assigns memory in the first tenth of its time; the rest writes code,
fusion by fusion. With `xla_dump_to` it leaves both in files, so a process that compiles can be
ended there. The figures are those of the whole compilation; only its own FLOPs are missing.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lfpc_jax.plan.collectives import collectives, sent
from lfpc_jax.plan.programs import Compiled, Source, refused

_LAST = "*.after_optimizations_after_buffer_assignment.txt"
"""What the compiler writes when all that is read here is there."""


def compile_into(source: Source, folder: Path) -> None:
    """In a process of its own, which `assigned` ends."""
    options = {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}
    source.lower().compile(compiler_options=options)


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
                    raise refused(errors.read())
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        return _read(source, folder, time.perf_counter() - start)


def _read(source: Source, folder: Path, seconds: float) -> Compiled:
    program = next(folder.glob("*.after_optimizations.txt")).read_text()
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
        compiler_flops=0.0,
        compiler_bytes=0.0,
        compile_seconds=seconds,
    )
