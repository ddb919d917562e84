"""How every command is told to stop: by SIGTERM or Ctrl-C (SIGINT).

What a signal does depends on what the command is doing:

- While it imports what it needs, it ends at once with 143 (SIGTERM) or 130 (Ctrl-C). Nothing is
  raised there, because an exception within the initialisation of a C library can crash it.
- After `begun` there is nothing to keep yet. `Stopped` is raised in the main thread, so that
  unfinished files are removed, and the command exits with the same codes.
- After `resumable` the command keeps its results as it goes. Its loops ask `told` and return, and
  it exits with 0; the same command resumes.
- After `patient` (training, and commands of several processes) loops ask `told` as well, but may
  take as long as they need to save.

If a command that has begun or is resumable takes longer than `GRACE` seconds, as while a program
compiles, the process ends without further ado, which loses no more than a kill. A second Ctrl-C
ends any command at once, with 130. A second SIGTERM changes nothing, since schedulers signal both a
process and its parent, which passes the signal on.

A destructor or a callback swallows `Stopped` if it is raised there; then it is raised again. A
command that another command runs ends when that one is gone, even killed, so that the same command
can resume.

A thread reads the signals from a pipe that Python's own C handler writes to, because Python calls
handlers in the main thread only between two of its instructions, and a compiler may not return to
it for minutes.
"""

import atexit
import math
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

GRACE = 5.0
"""Seconds that a command has to end by itself, unless it is patient."""

CODE = "LFPC_STOPPED_CODE"
"""An environment variable: the exit code of a command that was told to stop and can be resumed, if
it is not to be 0. Commands that run others tell with it one that stopped from one that finished."""

_PARENT = "LFPC_STARTED_BY"
"""An environment variable: the process that started a command."""
_LOOK = 0.5
"""Seconds between two looks at whether that process is still there."""

_NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Stopped(KeyboardInterrupt):
    """Raised in the main thread of a command that was told to stop and has nothing to keep."""


class Interrupted(Exception):
    """Raised to leave long work once the command has been told to stop."""


@dataclass(frozen=True)
class _Way:
    """What a signal does. `code` and `last` are the exit code and the last line; without a code it
    is that of the signal. `word` is printed when the signal comes."""

    raises: bool = False
    grace: float | None = None
    code: int | None = None
    last: str = ""
    word: str = ""


_IMPORTING = _Way(grace=0.0)
_AT_ONCE = _Way(raises=True, grace=GRACE)

told = threading.Event()
"""Set once this process is told to stop."""

started: list[subprocess.Popen[Any]] = []
"""Commands that this process has started. A second Ctrl-C ends them with it, before it says so."""

_way = _IMPORTING
_by: int = signal.SIGTERM
_raised = False
_alone = True
_pipe: tuple[int, int] | None = None
_before: dict[int, object] = {}
_parent: int | None = None
_swallowed = False
_unraisable: Callable[["sys.UnraisableHookArgs"], object] | None = None


def listen() -> None:
    """Hears signals from here on. Call it in the main thread, before long imports, and again after
    a library may have installed handlers of its own. In another thread it does nothing."""
    global _pipe, _parent, _unraisable
    if threading.current_thread() is not threading.main_thread():
        return
    if started_by := os.environ.pop(_PARENT, None):  # which is not to reach its own children
        _parent = int(started_by)
    if _unraisable is None:
        _unraisable, sys.unraisablehook = sys.unraisablehook, _on_unraisable
    if _pipe is None:
        _pipe = os.pipe()
        for end in _pipe:
            os.set_blocking(end, False)
        threading.Thread(target=_watch, args=(_pipe[0],), name="signals", daemon=True).start()
        # Python takes its handlers away before the process is gone; a late signal must not turn
        # the exit of a command that has saved into a failure.
        atexit.register(_ignore)
    signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)
    for number in _NAMES:
        before = signal.signal(number, _on_signal)
        _before.setdefault(number, before)


def begun() -> None:
    """The command has what it needs, and `Stopped` may be raised wherever it is."""
    global _way
    if _way is _IMPORTING:
        _way = _AT_ONCE


def forget() -> None:
    """Undoes `listen` and all that followed, for tests that run commands in their own process."""
    global _way, _raised, _alone, _unraisable
    if _unraisable is not None and sys.unraisablehook is _on_unraisable:
        sys.unraisablehook, _unraisable = _unraisable, None
    if _before and threading.current_thread() is threading.main_thread():
        for number, before in _before.items():
            signal.signal(number, before)  # type: ignore[arg-type]
        signal.set_wakeup_fd(-1)
        _before.clear()
    _way, _raised, _alone = _IMPORTING, False, True
    told.clear()


@contextmanager
def deaf() -> Iterator[None]:
    """Processes that are started within ignore Ctrl-C, as this thread does until it leaves."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def environment_of_commands(**more: str) -> dict[str, str]:
    """The environment of commands that this process starts, and that are not to outlive it."""
    return {**os.environ, _PARENT: str(os.getpid()), **more}


def end_with_parent() -> None:
    """In a process of `multiprocessing`, which waits for work for ever if its parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def resumable(folder: Path) -> None:
    """From here on the command keeps what it has in `folder`, and the same command resumes."""
    global _way
    if _alone:
        last = f"stopped; rerun the same command to resume {folder}"
        _way = _Way(grace=GRACE, code=stopped_code(), last=last)


def patient(word: str) -> None:
    """From here on the command asks `told`, and takes the time that it needs. `word` is printed
    after the signal's name, and says when it will stop."""
    global _way
    _way = _Way(word=word)


def together(word: str) -> None:
    """This is one of several processes, which stop together: none ends before the others know."""
    global _alone
    _alone = False
    patient(word)


def over(code: int) -> None:
    """The command has its exit code, which no signal changes any more."""
    global _way
    _way = replace(_way, raises=False, code=code, last="", word="") if told.is_set() else _Way()


def stopped_code() -> int:
    return int(os.environ.get(CODE) or 0)


def signal_code() -> int:
    """The exit code of a command that had nothing to keep when it was told to stop."""
    return 128 + _by


def last_line() -> str:
    """What such a command says."""
    return f"stopped by {_NAMES[signal.Signals(_by)]}"


# -------------------------------------------------------------------- signals


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Runs in the main thread, at some time after the signal."""
    global _by, _raised
    if not told.is_set():
        _by = number
        told.set()
    if _way.raises and not _raised:
        _raised = True
        raise Stopped


def _on_unraisable(failed: "sys.UnraisableHookArgs") -> None:
    """Python tells this of what is raised in destructors and callbacks, where nobody catches it."""
    global _swallowed
    if isinstance(failed.exc_value, Stopped):
        _swallowed = True
    elif _unraisable is not None:
        _unraisable(failed)


def _watch(pipe: int) -> None:
    """Runs in a thread of its own. Hears a signal when it comes, whatever the main thread does."""
    global _by, _raised, _swallowed
    since: float | None = None
    interrupts = 0
    while True:
        look = _LOOK if _parent is not None else None
        ready, _, _ = select.select([pipe], [], [], look if since is None else 0.1)
        if _parent is not None and os.getppid() != _parent:
            _end(signal_code(), "stopped: the command that started this one is gone")
        if _swallowed:
            _raised = _swallowed = False
            interrupts -= _by == signal.SIGINT  # the pipe gets the signal once more
            signal.pthread_kill(threading.main_thread().ident or 0, _by)
        for number in os.read(pipe, 64) if ready else b"":
            interrupts += number == signal.SIGINT
            if since is None:
                since = time.monotonic()
                if not told.is_set():
                    _by = number
                    told.set()
                if _way.word:
                    _say(2, f"{_NAMES[signal.Signals(number)]}: {_way.word}")
        if since is not None and not told.is_set():  # forgotten
            since, interrupts = None, 0
        elif interrupts > 1:
            _end(128 + signal.SIGINT, "stopped at once by a second Ctrl-C")
        elif since is not None:
            grace = math.inf if _way.grace is None else _way.grace
            if time.monotonic() - since < grace:
                continue
            if _way.code is None:
                _end(signal_code(), last_line())
            _end(_way.code, _way.last, stream=1)


def _say(stream: int, line: str) -> None:
    """Writes past Python's buffers, whose locks the main thread may hold."""
    try:
        os.write(stream, f"{line}\n".encode())
    except OSError:  # closed, or full; there is nobody to tell
        return


def _end(code: int, line: str, stream: int = 2) -> NoReturn:
    """Ends the process, and those that it started."""
    for child in multiprocessing.active_children():
        child.kill()
    for command in started:
        command.kill()  # which does nothing to one that has ended
    if sys.stderr is not None and os.isatty(2):
        _say(2, "\x1b[?25h")  # a live display hides the cursor
    if line:
        _say(stream, line)
    os._exit(code)


def _ignore() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _NAMES:
            signal.signal(number, signal.SIG_IGN)
