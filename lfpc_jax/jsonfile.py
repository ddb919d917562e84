"""JSON files as they are found: damaged, of another type, or nested without end.

Whatever is wrong with one raises ValueError in one line that names the file, the place in it and
the value, and says what was expected there.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfpc_jax import regular

_MOST_BYTES = 256 << 20

OTHER_SHAPE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a value raises if it is of another type, lacks a part, is too large or too deep."""


def read_object(path: Path, *, unique_keys: bool = False) -> dict[str, Any]:
    """The JSON object that a file holds; see `parsed`."""
    value = parsed(regular.contents(path, _MOST_BYTES), path, unique_keys=unique_keys)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds {brief(value)}, expected an object; copy the file again")
    return value


def parsed(text: str | bytes, where: object, *, unique_keys: bool = False) -> Any:
    """The value of a JSON text. With `unique_keys`, an object with two equal keys is refused, of
    which the standard parser keeps the last."""
    try:
        return json.loads(text, object_pairs_hook=_unique if unique_keys else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{where}: not valid JSON, or truncated ({error!s:.200}); copy the file again"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return values


def brief(value: object) -> str:
    """A value in a message: never long, whatever it is."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):  # a number of too many digits, a depth of too many lists
        return f"a {type(value).__name__}"


@contextmanager
def expecting(what: str, where: object) -> Iterator[None]:
    """Raises ValueError in one line if a value in `where` is not shaped as the body reads it."""
    try:
        yield
    except OTHER_SHAPE as error:
        if isinstance(error, ValueError) and str(error).startswith(str(where)):
            raise
        reason = " ".join(f"{type(error).__name__}: {error!s:.200}".split())
        raise ValueError(f"{where}: holds no {what} ({reason}); copy the file again") from error


@dataclass(frozen=True)
class Checked:
    """Values of one file, checked for type and bounds. Each method takes the name by which the file
    has the value."""

    path: Path

    def whole(self, name: str, value: object, least: int, most: int) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise self.wrong(name, value, f"a whole number from {least} to {most}")

    def number(self, name: str, value: object, above: float, most: float) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool) and above < value <= most:
            return float(value)
        raise self.wrong(name, value, f"a number above {above:g}, at most {most:g}")

    def numbers(self, name: str, value: object, count: int) -> tuple[float, ...]:
        if isinstance(value, list | tuple) and len(value) == count and all(map(_finite, value)):
            return tuple(map(float, value))
        raise self.wrong(name, value, f"a list of {count} finite numbers")

    def wholes(self, name: str, value: object, least: int, most: int) -> tuple[int, ...]:
        if not isinstance(value, list | tuple):
            raise self.wrong(name, value, "a list of whole numbers")
        return tuple(self.whole(name, item, least, most) for item in value)

    def mapping(self, name: str, value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        raise self.wrong(name, value, "an object")

    def wrong(self, name: str, value: object, expected: str) -> ValueError:
        return ValueError(
            f"{self.path}: `{name}` is {brief(value)}, expected {expected}; copy the file again"
        )


def _finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False
