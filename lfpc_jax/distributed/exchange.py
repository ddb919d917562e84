"""Exchanges small values between processes: every process makes the same calls in the same order
and gets the same result.

JAX gathers in the order of devices, and assumes that this is also the order of processes. So every
value is sent with the number of its process, and results in another order raise ValueError.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def total(numbers: Sequence[int]) -> list[int]:
    """The sum over processes, for each of the numbers."""
    return _gathered(numbers).sum(axis=0).tolist()


def largest(numbers: Sequence[int]) -> list[int]:
    """The largest over processes, for each of the numbers."""
    return _gathered(numbers).max(axis=0).tolist()


def everyones(value: Any) -> list[Any]:
    """The value of every process, in the order of processes; anything that JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps([jax.process_index(), value]).encode(), np.uint8)
    [length] = largest([len(text)])
    padded = np.pad(text, (0, length - len(text)), constant_values=ord(" "))
    rows = [json.loads(bytes(row)) for row in multihost_utils.process_allgather(padded)]
    _check_order([process for process, _ in rows])
    return [theirs for _, theirs in rows]


def _gathered(numbers: Sequence[int]) -> np.ndarray:
    """Row p holds the numbers of process p."""
    row = np.array([jax.process_index(), *numbers], np.int64)
    if jax.process_count() == 1:
        return row[None, 1:]
    # JAX would cut 64-bit integers to 32 bits, so these are sent as bytes.
    rows = np.ascontiguousarray(multihost_utils.process_allgather(row.view(np.uint8)))
    processes, *columns = rows.view(np.int64).T
    _check_order(processes.tolist())
    return np.stack(columns, axis=1) if columns else np.empty((len(rows), 0), np.int64)


def _check_order(processes: list[int]) -> None:
    if processes != [*range(jax.process_count())]:
        raise ValueError(
            f"values that {jax.process_count()} processes exchanged came back in the order "
            f"{processes}: jax.devices() does not list the devices process by process here, so "
            "work could not be divided correctly between processes; please report this, with "
            "the output of jax.devices()"
        )
