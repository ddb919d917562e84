"""One of several processes, doing what its mode says.

    member.py PORT PROCESSES PROCESS MODE

Prints a line when it is ready, and what came of it.
"""

import os
import signal
import sys
import threading
import time
from functools import partial

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.pop("XLA_FLAGS", None)

import numpy as np
from jax.experimental import multihost_utils

from lfpc_jax.distributed import processes
from lfpc_jax.distributed.processes import ProcessSettings

SILENCE = 6.0


def main(port: str, count: str, process: str, mode: str) -> int:
    me = int(process)
    if mode == "late" and me == 2:
        return 0
    processes.start(
        ProcessSettings(
            coordinator=f"localhost:{port}",
            processes=int(count),
            process=me,
            connect_seconds=12 if mode == "late" else 120,
            beat_seconds=0.5,
            silence_seconds=SILENCE,
        )
    )
    if mode == "agree":
        _agree(me)
    elif mode == "barrier":
        _barrier(me)
    elif mode == "term":
        _term(me)
    elif mode == "seen":
        _seen()
    elif mode == "late-term":
        sys.modules["signals_at_its_end"] = _SignalsAtItsEnd()  # type: ignore[assignment]
    elif mode == "fails" and me == 1:
        print("ready", flush=True)
        raise RuntimeError("no space left on device")
    elif mode == "handled" and me == 1:
        processes.failed("cannot read scenes.parquet", 2)
        return 2
    else:
        _wait(mode, me)
    return 0


def _agree(me: int) -> None:
    processes.agree({"config": "lr 1\nsteps 80", "data": processes.data_list(["a", "b"])})
    print("agreed once", flush=True)
    config = "lr 1\nsteps 90" if me == 2 else "lr 1\nsteps 80"
    data = processes.data_list(["b", "a"] if me == 0 else ["a", "b"])
    try:
        processes.agree({"config": config, "data": data})
    except ValueError as error:
        print(error, flush=True)


def _barrier(me: int) -> None:
    processes.barrier("all", 60)
    if me == 1:
        time.sleep(4)
    try:
        processes.barrier("saved", 1.5)
    except TimeoutError as error:
        print(error, flush=True)


def _term(me: int) -> None:
    """Steps until told to stop; the steps of process 1 are the slow ones."""
    step = 0
    while not processes.stop_requested():
        step += 1
        print("stepping", flush=True)
        time.sleep(0.05 * (1 + me))
    print("stopped at", step, flush=True)


class _SignalsAtItsEnd:
    """Sends SIGTERM to its own process when the interpreter takes its modules apart."""

    def __init__(self) -> None:
        self.signal_itself = partial(os.kill, os.getpid(), signal.SIGTERM)

    def __del__(self) -> None:
        self.signal_itself()


def _seen() -> None:
    """Long work that is cut short when anybody was told to stop."""
    print("ready", flush=True)
    while not processes.stop_seen():
        time.sleep(0.02)
    print("agreed:", processes.stop_requested(), flush=True)


def _wait(mode: str, me: int) -> None:
    """In a collective that never ends, at a barrier, or at work of its own."""
    multihost_utils.process_allgather(np.ones(1))
    print("ready", flush=True)
    if mode == "collective":
        if me == 1:
            threading.Event().wait()
        while True:
            multihost_utils.process_allgather(np.ones(1))
    if mode == "barrier-wait" and me != 1:
        processes.barrier("never", 300)
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
