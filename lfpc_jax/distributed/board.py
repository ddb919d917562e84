"""The key-value store that JAX's coordination service keeps for all processes, and its barriers.

Only this module uses the client of `jax.distributed`, which is not part of JAX's public interface.
"""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import jax

_NEEDED = ("key_value_set", "key_value_dir_get", "key_value_delete", "wait_at_barrier")


def connect() -> tuple["Board", str]:
    """The board as this process uses it, and the address of the coordinator that keeps it."""
    try:
        from jax._src.distributed import global_state

        client, address = global_state.client, global_state.coordinator_address
        process, processes = global_state.process_id, global_state.num_processes
    except (ImportError, AttributeError) as error:
        raise _changed(f"jax._src.distributed.global_state ({error})") from error
    if client is None or address is None:
        raise RuntimeError("there is no coordination service yet; call processes.start first")
    missing = [name for name in _NEEDED if not hasattr(client, name)]
    if missing:
        raise _changed(", ".join(missing))
    return Board(process, processes, client), address


def _changed(what: str) -> RuntimeError:
    return RuntimeError(
        f"jax {jax.__version__} no longer has {what}, which processes need to talk to each other; "
        "install the jax of constraints.txt"
    )


@dataclass(frozen=True)
class Board:
    """Notes that processes leave for each other, in folders named by the caller."""

    process: int
    processes: int
    client: Any
    _met: dict[str, itertools.count] = field(default_factory=lambda: defaultdict(itertools.count))

    def put(self, folder: str, note: str) -> None:
        """Writes this process' note in `folder`; a later note replaces it."""
        self.client.key_value_set(f"lfpc/{folder}/{self.process}", note, allow_overwrite=True)

    def read(self, folder: str) -> dict[int, str]:
        """The notes in `folder`, by the process that wrote them."""
        notes = self.client.key_value_dir_get(f"lfpc/{folder}/")
        return {int(key.rsplit("/", 1)[1]): note for key, note in notes}

    def clear(self, folder: str) -> None:
        self.client.key_value_delete(f"lfpc/{folder}/")

    def meet(self, name: str, seconds: float | int, note: str = "") -> dict[int, str]:
        """Waits for all processes and returns the notes that they brought.

        Raises `Absent`, which names the processes that did not arrive in time. A name may be used
        any number of times, as long as every process makes the same calls in the same order.
        """
        folder = f"meet/{name}/{next(self._met[name])}"
        self.put(folder, note)
        try:
            self.client.wait_at_barrier(f"lfpc/{folder}", round(seconds * 1000))
        except jax.errors.JaxRuntimeError as error:
            arrived = self.read(folder)
            missing = tuple(i for i in range(self.processes) if i not in arrived)
            raise Absent(name, seconds, missing, str(error)) from error
        notes = self.read(folder)
        # Another process may still have to read this meeting's notes, so only the notes of the
        # meeting before it are cleared.
        previous = f"meet/{name}/{int(folder.rsplit('/', 1)[1]) - 1}"
        if self.process == 0:
            self.clear(previous)
        return notes


class Absent(TimeoutError):
    """A meeting that some processes did not reach in time. A process that itself came too late
    finds nobody `missing`."""

    def __init__(
        self, name: str, seconds: float | int, missing: tuple[int, ...], cause: str
    ) -> None:
        who = f"{named(missing)} did not arrive" if missing else "not every process arrived"
        super().__init__(f"barrier {name.removeprefix('barrier/')!r}: {who} within {seconds:g} s")
        self.name, self.seconds, self.missing, self.cause = name, seconds, missing, cause


def named(processes: tuple[int, ...]) -> str:
    """`process 3`, or `processes 1, 2`; at most 16 are listed."""
    numbers = ", ".join(map(str, processes[:16])) + (", ..." if len(processes) > 16 else "")
    return f"process {numbers}" if len(processes) == 1 else f"processes {numbers}"
