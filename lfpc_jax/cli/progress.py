"""How far a long command is: a bar on a terminal, a line for every tenth elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def bar(
    what: str, total: int, *, of_bytes: bool = False, every: float = 0.0
) -> Iterator[Callable[[int], None]]:
    """Yields the function that is told how much more is done. Lines come `every` so many seconds
    at most, so that short work that is often repeated prints none."""
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _lines(what, total, of_bytes, every)
        return
    done: list[ProgressColumn] = [MofNCompleteColumn()]
    if of_bytes:
        done = [DownloadColumn(), TransferSpeedColumn()]
    columns = [TextColumn(what), BarColumn(), *done, TimeElapsedColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.advance(task, more)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """For work that does not say how far it is."""
    console, start = Console(file=sys.stderr), time.monotonic()
    if console.is_terminal:
        with Progress(
            TextColumn(what), BarColumn(), TimeElapsedColumn(), console=console
        ) as progress:
            progress.add_task(what, total=None)
            yield
        return
    print(f"{what} ...", file=sys.stderr, flush=True)
    yield
    print(f"{what}: done in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def _lines(what: str, total: int, of_bytes: bool, every: float) -> Callable[[int], None]:
    start, done, tenths = time.monotonic(), 0, 0
    printed = start

    def advance(more: int) -> None:
        nonlocal done, tenths, printed
        done += more
        if done * 10 // max(total, 1) <= tenths or time.monotonic() - printed < every:
            return
        printed = time.monotonic()
        tenths = done * 10 // max(total, 1)
        elapsed = time.monotonic() - start
        left = elapsed * (total - done) / done
        amount = f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if of_bytes else f"{done} of {total}"
        print(f"{what}: {amount}, {elapsed:.1f} s, {left:.1f} s left", file=sys.stderr, flush=True)

    return advance
