"""One program in one or many processes: start-up, agreement, barriers, an agreed stop, an end.

    processes.start(settings)                      # before anything touches a device
    processes.agree({"config": text, "data": processes.data_list(ids)})
    while ...:
        step()
        if processes.stop_requested():             # True in every process at the same step
            save(); break
    processes.barrier("saved", seconds=600)

With one process all of this is local and immediate. With many, `Peers` ends every
process with exit code `LOST` and a word on who was lost. A process that ends well waits for the
others at its exit; one that raises, or calls `failed`, tells them why first.
"""

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import jax

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
"""How long a process that has ended well waits at its exit for the others to end."""


@dataclass
class _Joined:
    """This process among the others."""

    board: Board
    peers: Peers
    witness: subprocess.Popen[bytes]
    settings: ProcessSettings
    failed: str | None = None
    code: int = 1


_joined: _Joined | None = None
_signalled = threading.Event()


def start(settings: ProcessSettings | None = None) -> None:
    """Joins the other processes, if there are any. In the main thread, once, before any device."""
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
        own, coordinator = board.own()
        if own.processes > 1:
            _joined = _join(own, coordinator, settings)
            atexit.register(_leave)
    # After JAX's start, which installs a handler of its own.
    signal.signal(signal.SIGTERM, _on_sigterm)


def agree(parts: Mapping[str, bytes | str], seconds: float | int = 300.0) -> None:
    """Raises in every process unless all have the same code, versions and `parts`."""
    if _joined is None:
        return
    own = {"code": agreement.code(), "versions": agreement.versions()}
    if clash := own.keys() & parts.keys():
        raise ValueError(f"parts {sorted(clash)} are compared already; name yours otherwise")
    try:
        agreement.agree(_joined.board, {**own, **parts}, seconds)
    except Absent as absent:
        raise _told(absent, _joined) from absent


def barrier(name: str, seconds: float | int) -> None:
    """Waits for every process. Raises `TimeoutError` with those who are missing and how they
    were last heard."""
    if _joined is None:
        return
    try:
        _joined.board.meet(f"barrier/{name}", seconds)
    except Absent as absent:
        raise _told(absent, _joined) from absent


def stop_requested(seconds: float | int = 3600.0) -> bool:
    """Whether any process knows of a SIGTERM: every process, at its n-th call, gets the same
    answer. Waits for the slowest, as the next collective would."""
    if _joined is None:
        return _signalled.is_set()
    try:
        notes = _joined.board.meet("stop", seconds, "stop" if stop_seen() else "")
    except Absent as absent:
        raise _told(absent, _joined) from absent
    stopping = [process for process, note in sorted(notes.items()) if note]
    if stopping:
        logger.warning("all stop, as %s knew of a SIGTERM", board.named(tuple(stopping)))
    return bool(stopping)


def stop_seen() -> bool:
    """Whether this process knows of a SIGTERM, its own or another's, without waiting for anybody.

    Others may not know yet: this only says that long work may be cut short on the way to the next
    `stop_requested`, which then is True in all.
    """
    return _signalled.is_set() or (_joined is not None and _joined.peers.stop_heard)


def failed(why: str, code: int = 1) -> None:
    """For a program that handles its error: the others are told why this process ends early. It
    does so with `code`, since it cannot say goodbye to the coordinator in the usual way."""
    if _joined is not None:
        _joined.failed, _joined.code = why, code
        _joined.peers.say("failed", why)


# -------------------------------------------------------------------- start


def keep_programs(folder: str) -> None:
    """Compiled programs are kept in a folder, or, if it is empty, nowhere. All of them: a small
    model's take less than the second from which on JAX would keep one, and there are dozens."""
    if not folder:
        return
    if "://" not in folder:
        folder = str(Path(folder).expanduser().absolute())
        Path(folder).mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    logger.info("compiled programs are kept in %s", folder)


def _initialize(launched: Launched, settings: ProcessSettings) -> None:
    # Ours speaks at silence_seconds; the runtime's abort is what is left if it cannot.
    patience = int(2 * settings.silence_seconds) + 10
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if launched.source == "tpu":
        logger.info("processes as the TPU's metadata say")
        jax.distributed.initialize(
            initialization_timeout=settings.connect_seconds, heartbeat_timeout_seconds=patience
        )
    elif launched.processes == 1:
        logger.info("one process, says %s", launched.source)
        return
    else:
        logger.info(
            "process %d of %d, says %s; coordinator %s",
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


def _join(own: Board, coordinator: str, settings: ProcessSettings) -> _Joined:
    witness = _witness(own.process, coordinator)
    peers = Peers(
        own,
        beat_seconds=settings.beat_seconds,
        silence_seconds=settings.silence_seconds,
        coordinator=coordinator,
        asked=_signalled,
        last_words=lambda: _bye(witness),
    )
    peers.start()
    return _Joined(own, peers, witness, settings)


def _witness(process: int, coordinator: str) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("witness.py")
    command = [sys.executable, "-I", "-S", str(script), str(process), str(os.getpid()), coordinator]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


# -------------------------------------------------------------------- the end


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    # A second one changes nothing: schedulers signal a process and whoever started it, who hands it
    # on. And no logging: the handler may have interrupted a logger that holds its lock.
    if not _signalled.is_set():
        _signalled.set()
        os.write(2, b"SIGTERM: stops after this step\n")


def _leave() -> None:
    """At exit, before JAX says goodbye to the coordinator, which waits for everybody."""
    joined = _joined
    assert joined is not None
    # Python keeps here what ended the program, if it was not caught.
    error = getattr(sys, "last_value", None)
    if joined.failed is None and error is not None:
        failed(f"{type(error).__name__}: {error}")
    if joined.failed is not None:
        # If another's death was the cause, the watch says so while this waits, and ends here.
        joined.peers.wait_for_the_others(joined.settings.silence_seconds * 2)
        joined.peers.outlast_the_others()
        _bye(joined.witness)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(joined.code)
    joined.peers.say("finished")
    if not joined.peers.wait_for_the_others(FINISH_SECONDS):
        logger.error("this process ended %g s ago and others are still at work", FINISH_SECONDS)
    joined.peers.stop()
    _bye(joined.witness)


def _bye(witness: subprocess.Popen[bytes]) -> None:
    assert witness.stdin is not None
    try:
        witness.stdin.write(b"bye")
        witness.stdin.close()
    except OSError:  # the witness has gone, and with it the need for a goodbye
        return


def _told(absent: Absent, joined: _Joined) -> TimeoutError:
    """The error with how the missing ones were last heard."""
    heard = [joined.peers.heard(process) for process in absent.missing[:16]]
    remedy = "look at their logs" if absent.missing else absent.cause.split("\n")[0]
    return TimeoutError("; ".join([str(absent), *heard, remedy]))
