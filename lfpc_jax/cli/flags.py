"""Types of flags that several commands share."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def _checked(
    kind: type[Number], holds: Callable[[Number], bool], must: str
) -> Callable[[str], Number]:
    """Reads a number, and refuses one that does not hold. A text that is no number is refused by
    argparse, with the name of the function."""

    def read(text: str) -> Number:
        value = kind(text)
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text}: must be {must}")
        return value

    read.__name__ = kind.__name__
    return read


positive = _checked(int, lambda value: value >= 1, "at least 1")
not_negative = _checked(int, lambda value: value >= 0, "at least 0")
port = _checked(int, lambda value: 0 <= value < 1 << 16, "from 0 to 65535")
share = _checked(float, lambda value: 0 <= value <= 1, "a share, from 0 to 1")
temperature = _checked(float, lambda value: 0 <= value < math.inf, "0 or more, and finite")
