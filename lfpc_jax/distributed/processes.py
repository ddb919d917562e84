"""Runs one program in one or many processes: start, agreement, barriers, an agreed stop, exit.

    processes.start(settings)                      # before anything touches a device
    stopping.patient("stops after this step")      # until then SIGTERM ends it at once
    processes.agree({"config": text, "data": processes.data_list(ids)})
    while ...:
        step()
        if processes.stop_requested():             # True in every process at the same step
            save(); break
    processes.barrier("saved", seconds=600)

With one process all of this is local and immediate. With many, if one is lost `Peers` ends every
other with exit code `LOST` and a message that names the lost one. A process that finishes waits at
its exit for the others. One that raises, or calls `failed`, first tells them why.
"""

import atexit
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax

from lfpc_jax import stopping
from lfpc_jax.distributed import agreement, board
from lfpc_jax.distributed.agreement import data_list
from lfpc_jax.distributed.board import Absent, Board
from lfpc_jax.distributed.launched import Launched, ProcessSettings, detect
from lfpc_jax.distributed.peers import LOST, Peers
from lfpc_jax.distributed.roll_call import roll_call

__all__ = [
    "LOST",
    "Absent",
    "ProcessSettings",
    "agree",
    "barrier",
    "data_list",
    "failed",
    "keep_programs",
    "start",
    "stop_requested",
    "stop_seen",
]

logger = logging.getLogger(__name__)

FINISH_SECONDS = 3600.0
"""How long a process that has finished waits at its exit for the others to end."""


@dataclass
class _Joined:
    """The state of a process that has joined others."""

    board: Board
    peers: Peers
    witness: subprocess.Popen[bytes]
    settings: ProcessSettings
    failed: str | None = None
    code: int = 1


_joined: _Joined | None = None


def start(settings: ProcessSettings | None = None) -> None:
    """Joins the other processes, if there are any. Call it once, in the main thread, before JAX
    touches a device.

    It hears SIGTERM and Ctrl-C from then on, as `stopping` says; several processes stop together.
    """
    global _joined
    settings = settings or ProcessSettings()
    if _joined is not None or jax.distributed.is_initialized():
        raise RuntimeError("this process has already joined the others; call start once")
    keep_programs(settings.cache)
    launched = detect(settings, os.environ)
    if launched.source == "one":
        logger.info("one process: no other was announced by flags, torchrun, SLURM or a TPU")
    else:
        _initialize(launched, settings)
    if jax.distributed.is_initialized():
        shared, coordinator = board.connect()
        if shared.processes > 1:
            _joined = _join(shared, coordinator, settings)
            atexit.register(_leave)
    # This comes after JAX's start, which installs another handler.
    stopping.listen()
    if _joined is not None:
        stopping.together("stops together with the other processes")


def agree(parts: Mapping[str, bytes | str], seconds: float | int = 300.0) -> None:
    """Raises in every process unless all have the same code, versions and `parts`."""
    if _joined is None:
        return
    always = {"code": agreement.code(), "versions": agreement.versions()}
    if clash := always.keys() & parts.keys():
        raise ValueError(f"parts {sorted(clash)} are always compared; give yours other names")
    try:
        agreement.agree(_joined.board, {**always, **parts}, seconds)
    except Absent as absent:
        raise _explained(absent, _joined) from absent


def barrier(name: str, seconds: float | int) -> None:
    """Waits for every process. Raises `TimeoutError` that names the missing ones and says when they
    were last heard."""
    if _joined is None:
        return
    try:
        _joined.board.meet(f"barrier/{name}", seconds)
    except Absent as absent:
        raise _explained(absent, _joined) from absent


def stop_requested(seconds: float | int = 3600.0) -> bool:
    """Whether any process was told to stop. Every process gets the same answer from its n-th
    call, which waits for the slowest process, as the next collective would."""
    if _joined is None:
        return stopping.told.is_set()
    try:
        notes = _joined.board.meet("stop", seconds, "stop" if stop_seen() else "")
    except Absent as absent:
        raise _explained(absent, _joined) from absent
    knew = tuple(process for process, note in sorted(notes.items()) if note)
    if knew:
        logger.warning("all processes stop: %s knew of a SIGTERM or Ctrl-C", board.named(knew))
    return bool(knew)


def stop_seen() -> bool:
    """Whether this process knows that it or another was told to stop, without waiting.

    Other processes may not know of it yet. So use it only to cut long work short before the next
    `stop_requested`, which will be True in every process.
    """
    return stopping.told.is_set() or (_joined is not None and _joined.peers.stop_heard)


def failed(why: str, code: int = 1) -> None:
    """Tells the others why this process ends early, for a program that handles its error itself.

    The process then exits with `code`, without JAX's usual shutdown, which waits for all.
    """
    if _joined is not None:
        _joined.failed, _joined.code = why, code
        _joined.peers.say("failed", why)


# -------------------------------------------------------------------- start


def keep_programs(folder: str) -> None:
    """Keeps compiled programs in `folder`, or nowhere if it is empty.

    All are kept. JAX by default keeps only those that took a second to compile, but a small model
    has dozens that each take less.
    """
    if not folder:
        return
    if "://" not in folder:
        folder = str(Path(folder).expanduser().absolute())
        Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    logger.info("compiled programs are kept in %s", folder)


def _initialize(launched: Launched, settings: ProcessSettings) -> None:
    # `Peers` reports a loss after silence_seconds. If it cannot, the runtime aborts later.
    patience = int(2 * settings.silence_seconds) + 10
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if launched.source == "tpu":
        logger.info("processes are numbered by the TPU's metadata")
        jax.distributed.initialize(
            initialization_timeout=settings.connect_seconds, heartbeat_timeout_seconds=patience
        )
    elif launched.processes == 1:
        logger.info("one process, according to %s", launched.source)
        return
    else:
        logger.info(
            "process %d of %d, according to %s; coordinator %s",
            launched.process, launched.processes, launched.source, launched.coordinator,
        )  # fmt: skip
        roll_call(
            launched.coordinator, launched.processes, launched.process, settings.connect_seconds
        )
        jax.distributed.initialize(
            launched.coordinator,
            launched.processes,
            launched.process,
            local_device_ids=launched.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=settings.connect_seconds,
            heartbeat_timeout_seconds=patience,
        )


def _join(shared: Board, coordinator: str, settings: ProcessSettings) -> _Joined:
    witness = _witness(shared.process, coordinator)
    peers = Peers(
        shared,
        beat_seconds=settings.beat_seconds,
        silence_seconds=settings.silence_seconds,
        coordinator=coordinator,
        asked=stopping.told,
        last_words=lambda: _bye(witness),
    )
    peers.start()
    return _Joined(shared, peers, witness, settings)


def _witness(process: int, coordinator: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("witness.py")
    command = [sys.executable, "-I", "-S", str(script), str(process), str(os.getpid()), coordinator]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


# -------------------------------------------------------------------- the end


def _leave() -> None:
    """Runs at exit, before JAX's shutdown, which waits for every process."""
    joined = _joined
    assert joined is not None
    # Python keeps an uncaught exception here.
    error = getattr(sys, "last_value", None)
    if joined.failed is None and error is not None:
        failed(f"{type(error).__name__}: {error}")
    if joined.failed is not None:
        # If the death of another process was the cause, `Peers` reports it and ends this process
        # during this wait.
        joined.peers.wait_for_the_others(joined.settings.silence_seconds * 2)
        joined.peers.outlast_the_others()
        _bye(joined.witness)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(joined.code)
    joined.peers.say("finished")
    if not joined.peers.wait_for_the_others(FINISH_SECONDS):
        logger.error("this process finished %g s ago; others are still running", FINISH_SECONDS)
    joined.peers.stop()
    _bye(joined.witness)


def _bye(witness: subprocess.Popen[bytes]) -> None:
    assert witness.stdin is not None
    try:
        witness.stdin.write(b"bye")
        witness.stdin.close()
    except OSError:  # the witness has already ended, so nothing needs to be told
        return


def _explained(absent: Absent, joined: _Joined) -> TimeoutError:
    """The error, with when the missing processes were last heard."""
    heard = [joined.peers.heard(process) for process in absent.missing[:16]]
    remedy = "look at their logs" if absent.missing else absent.cause.split("\n")[0]
    return TimeoutError("; ".join([str(absent), *heard, remedy]))
