"""What a table must have, and what it has beside that, by name."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)
_warn_once = cache(log.warning)


def check_columns(path: Path, found: Iterable[str], needed: Iterable[str]) -> None:
    """Raises for missing columns, with the unknown ones beside them: one may be the other
    misspelt. Unknown ones alone are only logged, once for all rows of a path."""
    found, needed = list(found), list(needed)
    missing = [name for name in needed if name not in found]
    unknown = [name for name in found if name not in needed]
    if missing:
        raise ValueError(
            f"{path}: lacks the columns {missing} and has {unknown or 'none'} that are not known; "
            "is this the right file?"
        )
    if unknown:
        _warn_once("%s: the columns %s are not known and not read", path, str(unknown))
