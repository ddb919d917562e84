"""Folders that a run of tests shares between its processes, all within one that goes with the run.

A run that is killed cannot remove its folder; the next run does. Which folders are still in use is
told by a lock, which the kernel releases when the process dies.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = "LFPC_TESTS_SCRATCH"
"""An environment variable: the folder of this run."""
_PREFIX = "lfpc-tests-"


def begin() -> Callable[[], None]:
    """Makes the run's folder, and removes those of dead runs. Returns what ends the run's own."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if (lock := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX))
    _locked(path)
    os.environ[ROOT] = str(path)
    return partial(_end, path)


def folder(prefix: str) -> Path:
    """A new folder of this run."""
    if ROOT not in os.environ:  # a script without pytest
        atexit.register(begin())
    return Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ[ROOT]))


def _end(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.environ.pop(ROOT, None)


def _locked(path: Path) -> int | None:
    """The descriptor that holds the folder's lock, or None if another process has it."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # it went meanwhile, or is another user's
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock
