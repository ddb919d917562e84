"""Shows how far a long command is: live bars on a terminal, and elsewhere a line after every
tenth."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
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

_DAY = 86400.0


@contextmanager
def bar(
    what: str, total: int, *, of_bytes: bool = False, every: float = 0.0
) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the amount of work done since the last call. There are at
    least `every` seconds between two lines, so that short work prints none."""
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


class StepsDisplay:
    """The display of a loop with few and long steps.

    On a terminal, from the first `phase` on, a bar of the steps stays below everything that is
    printed. It shows the phase, the time left and the result of the last step. The `bar` of a
    phase's work stands below it. Elsewhere only that `bar` prints lines.
    """

    def __init__(self, total: int) -> None:
        console = Console(file=sys.stderr)
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            speed_estimate_period=_DAY,
            disable=not console.is_terminal,
        )
        self._phase = self._last = ""
        self._task = self._live.add_task("steps", total=total, note="")

    def resume(self, done: int) -> None:
        """Sets how many steps are already done."""
        self._live.reset(self._task, completed=done)

    def phase(self, name: str) -> None:
        self._phase = name
        self._live.start()
        self._note()

    def done(self, came_to: str) -> None:
        """Counts one more step; `came_to` is its result."""
        self._last = came_to
        self._live.advance(self._task)
        self._note()

    @contextmanager
    def bar(self, what: str, total: int, *, every: float = 0.0) -> Iterator[Callable[[int], None]]:
        if self._live.disable:
            with bar(what, total, every=every) as advance:
                yield advance
            return
        task = self._live.add_task(what, total=total, note="")
        try:
            yield lambda more: self._live.advance(task, more)
        finally:
            self._live.remove_task(task)

    def close(self) -> None:
        self._live.stop()

    def _note(self) -> None:
        note = escape(f"{self._phase} | {self._last}" if self._last else self._phase)
        self._live.update(self._task, note=note)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows that work of unknown length is going on."""
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
