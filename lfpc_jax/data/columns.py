"""Checks the columns of a table by name."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)
_warn_once = cache(log.warning)


def check_columns(path: Path, present: Iterable[str], needed: Iterable[str]) -> None:
    """Raises ValueError for missing columns. The message lists the unknown ones as well, since they
    may be the missing ones misspelt. Unknown columns alone are only logged, once a path."""
    present, needed = list(present), list(needed)
    missing = [name for name in needed if name not in present]
    unknown = [name for name in present if name not in needed]
    if missing:
        raise ValueError(
            f"{path}: lacks the columns {missing} and has {unknown or 'none'} that are not known; "
            "is this the right file?"
        )
    if unknown:
        _warn_once("%s: the columns %s are not known and not read", path, str(unknown))
