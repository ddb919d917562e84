"""Failed writes and reads of Orbax and TensorStore, as one error instead of hundreds of printed
lines."""

import errno
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orbax.checkpoint

_RAISED_ANYWAY = (
    "_SignalingThread.run() raised", "in background save thread", "exception was never retrieved",
)  # fmt: skip
_LOOP_IS_CLOSED = "Event loop is closed"
_ORBAX = str(Path(orbax.checkpoint.__file__).parent)
_NO_SPACE = re.compile("RESOURCE_EXHAUSTED|No space left|Disk quota")
"""What TensorStore says of a full disk; its errors have no number."""


def hush() -> None:
    """Keeps both from printing tracebacks of errors that are raised anyway: by every thread that
    wrote, and by writes and reads that end after the first has failed."""
    absl = logging.getLogger("absl")
    if _is_news not in absl.filters:
        absl.addFilter(_is_news)
        logging.getLogger("asyncio").addFilter(_is_news)
        sys.unraisablehook = partial(_tell, sys.unraisablehook)


def of_writing(path: Path, error: Exception) -> Exception:
    """The error of a write to `path`, with the system's number if the disk was full."""
    if not isinstance(error, OSError) and _NO_SPACE.search(str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return error


@contextmanager
def reading(item: Path) -> Iterator[None]:
    """Names an Orbax item in whatever reading it raises: bare `Exception` for what TensorStore
    reports, and anything for descriptions of another shape."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(str(item)):
            raise
        cause = [*str(error.__cause__ or error).splitlines(), type(error).__name__][0]
        raise ValueError(f"{item}: cannot be read ({cause:.200}); copy the folder again") from error


def _is_news(line: logging.LogRecord) -> bool:
    return not any(words in str(line.msg) for words in _RAISED_ANYWAY)


def _tell(before: Callable[[Any], object], failed: Any) -> None:
    """Python tells this what nobody can catch. Two kinds are only echoes of an error that was
    raised: TensorStore reports each write to a loop, which the first error has closed; and the
    reads that the first error left behind raise once more when they are collected."""
    where = failed.exc_traceback
    called = "" if where is None else where.tb_frame.f_code.co_name
    late = called == "call_soon_threadsafe" and str(failed.exc_value) == _LOOP_IS_CLOSED
    if not (late or _of_orbax(failed.object)):
        before(failed)


def _of_orbax(left: object) -> bool:
    return inspect.iscoroutine(left) and left.cr_code.co_filename.startswith(_ORBAX)
