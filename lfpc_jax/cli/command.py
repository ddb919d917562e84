"""What all commands have in common: how they start, fail and stop.

Exit codes: 0 finished, or told to stop and kept what it has; 1 an error, which one line names; 2
wrong flags; 130 and 143 ended by Ctrl-C or SIGTERM where there was nothing to keep. Commands with
further codes say so.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lfpc_jax import stopping
from lfpc_jax.cli import process_flags
from lfpc_jax.jsonfile import brief
from lfpc_jax.plan.chips import GPU_SHARE

if TYPE_CHECKING:
    from lfpc_jax.run.claim import FolderClaim


def launched(module: str, *arguments: str, before: Callable[[], object] = lambda: None) -> int:
    """Runs the `main` of a command's module, and `before` in front of its import. Signals are heard
    from the beginning, because the module imports JAX, which takes seconds. JAX by itself would
    leave a quarter of a GPU's memory unused."""
    stopping.listen()
    os.environ.setdefault(*GPU_SHARE)
    try:
        before()
        return import_module(module).main(*arguments)
    except stopping.Stopped:
        return _stopped()


def run(
    body: Callable[[], int | None], codes: Mapping[type[BaseException], int] | None = None
) -> int:
    """Runs the body of a command, and returns its exit code, 0 for None. An error that a user can
    mend is one line; `codes` has those beside ValueError and OSError, and their exit codes."""
    stopping.listen()
    stopping.begun()
    known: dict[type[BaseException], int] = {ValueError: 1, OSError: 1, **(codes or {})}
    code = 1
    try:
        code = body() or 0
    except stopping.Stopped:
        code = _stopped()
    except tuple(known) as error:
        code = next(known[kind] for kind in type(error).__mro__ if kind in known)
        _failed(_in_words(error), code)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        _failed(f"out of memory: {error}", code)
    finally:
        stopping.over(code)
    return code


def resumed(
    args: argparse.Namespace, body: "Callable[[argparse.Namespace, FolderClaim], int]"
) -> int:
    """Starts the processes of a command that keeps its results in `args.out` as it goes, and runs
    it with its claim on that folder."""
    from lfpc_jax.run.claim import held  # imports JAX, which --help does not need

    process_flags.start(args)
    with held(args.out) as claim:
        stopping.resumable(args.out)
        return body(args, claim)


def stopped(folder: Path) -> int:
    """Says that a command was told to stop and resumes, and returns its exit code."""
    print(f"stopped; rerun the same command to resume {folder}", flush=True)
    return stopping.stopped_code()


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}the disk is full; free some space, then rerun the same command"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename)
        return f"{brief(name)} has {len(name)} characters, and no file has so long a name"
    return str(error)


def _is_out_of_memory(error: Exception) -> bool:
    """Also JAX's own error, which has no class for it. JAX is not imported for that."""
    is_jax = type(error).__name__ == "JaxRuntimeError"
    return isinstance(error, MemoryError) or (is_jax and "RESOURCE_EXHAUSTED" in str(error))


def _stopped() -> int:
    print(stopping.last_line(), file=sys.stderr)
    return stopping.signal_code()


def _failed(why: str, code: int) -> None:
    if processes := sys.modules.get("lfpc_jax.distributed.processes"):  # not all commands need it
        processes.failed(why, code)
    print(f"error: {why}", file=sys.stderr)
