"""Damage to files, reproducible from a seed: flipped bytes, cuts, and JSON of other shapes."""

import json
import random
from typing import Any

VALUES = (
    *(None, True, False, 0, -1, 1, 3, 7, 2.5, 1e308, -1e308, 10**30, 10**400, float("nan")),
    *(float("inf"), "", "text", "12", "../../etc/passwd", "/dev/zero", "\ud800", "\0", "x" * 5000),
    *([], [1], [1, 2, 3], [[[]]], ["a", "b"], {}, {"a": 1}, 1_000_000, 999_999_999),
)
DEEP = ("[" * 200_000, '{"a":' * 100_000, "[" * 200_000 + "]" * 200_000)


def of_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes or bits changed, most often near the beginning, or a piece lost, doubled or
    replaced."""
    damaged = bytearray(data or b"\0")
    size = len(damaged)
    start = rng.randrange(min(size, rng.choice([16, 64, 512, size])))
    match rng.randrange(6):
        case 0:
            return bytes(damaged[:start])
        case 1:
            for _ in range(rng.randint(1, 6)):
                damaged[rng.randrange(size)] = rng.randrange(256)
        case 2:
            damaged[start] ^= 1 << rng.randrange(8)
        case 3:
            for place in range(start, min(size, start + rng.randint(1, 8))):
                damaged[place] = rng.choice([0, 1, 127, 128, 255])
        case 4:
            stop = min(size, start + rng.randint(1, 64))
            damaged[start:stop] = rng.randbytes(rng.randrange(64))
        case _:
            stop = min(size, start + rng.randint(1, 256))
            damaged[stop:stop] = damaged[start:stop] * rng.randint(1, 3)
    return bytes(damaged)


def of_json(text: str, rng: random.Random) -> bytes:
    """Mostly sound JSON with one value replaced or removed; else a text without end, or damaged
    bytes."""
    kind = rng.randrange(10)
    if kind == 0:
        return rng.choice(DEEP).encode()
    if kind < 3:
        return of_bytes(text.encode(), rng)
    root: Any = json.loads(text)
    path = rng.choice(list(_places(root)))
    if not path:
        return written(rng.choice(VALUES))
    *inner, last = path
    holder = root
    for key in inner:
        holder = holder[key]
    if rng.random() < 0.2:
        del holder[last]
    elif rng.random() < 0.1:
        return written(root).replace(written(holder[last]), rng.choice(DEEP).encode(), 1)
    else:
        holder[last] = rng.choice(VALUES)
    return written(root)


def written(value: Any) -> bytes:
    """JSON as Python writes it, halves of surrogate pairs as escapes."""
    return json.dumps(value).encode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    yield path
    if isinstance(value, dict):
        for key in list(value)[:60]:
            yield from _places(value[key], (*path, key))
    elif isinstance(value, list):
        for place in range(min(len(value), 12)):
            yield from _places(value[place], (*path, place))
