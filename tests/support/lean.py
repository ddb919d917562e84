"""Settings under which programs are few and compile soon."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from lfpc_jax import shapes
from lfpc_jax.model import tuning
from lfpc_jax.rollout import replay, sizing, slots
from lfpc_jax.shapes import Buckets, max_windows, window_buckets

_SMALL = 64


def settings() -> Iterator[tuple[Any, str, Any]]:
    """Where, the name, and the value. Layers stay stacked, since loops over layers compile for
    several times as long. Engines have one bucket of rows, of spans and of texts, and of windows
    where pictures are small: the largest."""
    yield tuning._KNOWN, "cpu", replace(tuning.tuning("cpu"), unstacked=False)
    for module in (shapes, replay, sizing, slots):
        yield module, "geometric", _last
    yield shapes, "window_buckets", _windows


def apply() -> None:
    """For all of a process."""
    for where, name, value in settings():
        if isinstance(where, dict):
            where[name] = value
        else:
            setattr(where, name, value)


def _last(smallest: int, largest: int, ratio: float = 2.0) -> Buckets:
    return Buckets((largest,))


def _windows(max_tokens: int, window: int = 4) -> Buckets:
    most = max_windows(max_tokens, window)
    return Buckets((most,)) if most <= _SMALL else window_buckets(max_tokens, window)
