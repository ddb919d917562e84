"""Writes folders and files that appear complete or not at all.

A new folder is written beside its final place, as `.NAME.partial`, and renamed when it is
complete. The process that writes holds a lock on that directory, which the kernel releases when the
process dies. So the rest of a dead run can be told from what a running one is writing, and is
removed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental import multihost_utils


def check_free(target: str | Path, *, overwrite: bool = False) -> None:
    """Raises ValueError if the target exists. Call it also before long work begins."""
    target = Path(target)
    if target.exists() and not overwrite:
        raise ValueError(f"{target}: exists already; remove it, or ask to overwrite it")
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: is a file, not a folder; choose another name")


def check_apart(source: str | Path, target: str | Path) -> None:
    """Raises ValueError if replacing the target would remove what is read from the source. Links
    are followed."""
    read, written = Path(source).resolve(), Path(target).resolve()
    if read == written or written in read.parents:
        raise ValueError(f"{target}: holds {source}, which is read; choose another folder to write")
    if read in written.parents and written.exists():
        raise ValueError(f"{target}: is a part of {source}, which is read; choose another folder")


@contextmanager
def staged(target: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives the directory to write to. It becomes `target` if the body succeeds, and is removed
    otherwise.

    With several processes, all must enter, on a file system that they share; the first process
    makes and renames the directory.
    """
    target = Path(target).absolute()
    check_free(target, overwrite=overwrite)
    partial = target.with_name(f".{target.name}.partial")
    if jax.process_index():
        multihost_utils.sync_global_devices(f"made {partial}")
        yield partial
        multihost_utils.sync_global_devices(f"wrote {partial}")
        multihost_utils.sync_global_devices(f"renamed {partial}")
        return
    lock = _locked_directory(partial)
    try:
        multihost_utils.sync_global_devices(f"made {partial}")
        yield partial
        multihost_utils.sync_global_devices(f"wrote {partial}")
        _publish(partial, target)
        multihost_utils.sync_global_devices(f"renamed {partial}")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def write_text(file: Path, text: str) -> None:
    """Writes a file so that no reader ever sees only a part of it."""
    partial = file.with_suffix(".partial")
    partial.write_text(text)
    partial.rename(file)


def _locked_directory(path: Path) -> int:
    """An empty directory and the descriptor that holds its lock."""
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ValueError(f"{path}: another run is writing here; wait for it to end") from None
    for leftover in path.iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    return lock


def _publish(partial: Path, target: Path) -> None:
    retired = target.with_name(f".{target.name}.replaced")
    if target.exists():
        shutil.rmtree(retired, ignore_errors=True)
        target.rename(retired)
    partial.rename(target)
    _sync_directory(target.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
