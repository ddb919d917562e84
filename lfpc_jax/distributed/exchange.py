"""Small values between processes: every process calls, in the same order, and gets the same.

JAX gathers by the place of devices, and takes those of a process to lie together, in the order of
processes. So every value travels with its process; what comes back in another order raises.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def total(numbers: Sequence[int]) -> list[int]:
    """The sum over processes, number by number."""
    return _gathered(numbers).sum(axis=0).tolist()


def largest(numbers: Sequence[int]) -> list[int]:
    return _gathered(numbers).max(axis=0).tolist()


def everyones(value: Any) -> list[Any]:
    """What every process brought, in their order; anything that JSON can hold."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps([jax.process_index(), value]).encode(), np.uint8)
    [length] = largest([len(text)])
    padded = np.pad(text, (0, length - len(text)), constant_values=ord(" "))
    rows = [json.loads(bytes(row)) for row in multihost_utils.process_allgather(padded)]
    _check_order([process for process, _ in rows])
    return [theirs for _, theirs in rows]


def _gathered(numbers: Sequence[int]) -> np.ndarray:
    own = np.array([jax.process_index(), *numbers], np.int64)
    if jax.process_count() == 1:
        return own[None, 1:]
    # JAX would cut 64-bit integers in half, so these travel as bytes.
    rows = np.ascontiguousarray(multihost_utils.process_allgather(own.view(np.uint8)))
    processes, *columns = rows.view(np.int64).T
    _check_order(processes.tolist())
    return np.stack(columns, axis=1) if columns else np.empty((len(rows), 0), np.int64)


def _check_order(processes: list[int]) -> None:
    if processes != [*range(jax.process_count())]:
        raise ValueError(
            f"values that {jax.process_count()} processes exchanged came back as those of "
            f"{processes}: jax.devices() does not list the devices process by process here, and "
            "nothing that is shared out between processes would be right; please report this, with "
            "the output of jax.devices()"
        )
