"""Watches the other processes. If one dies, all end and name it, instead of waiting in a
collective for ever.

There are two daemon threads. Every `beat_seconds` the first writes a beat on the board and reads
those of the others. The second checks that the first still gets answers, since a coordinator whose
host has gone answers nothing. A process ends by `os._exit(LOST)`, because no exception reaches a
main thread that waits in a collective. JAX's heartbeat would abort it later, without a name and
without this exit code.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable

from lfpc_jax.distributed.board import Board, named
from lfpc_jax.distributed.register import Register, State, note

logger = logging.getLogger(__name__)

LOST = 75
"""Exit code of a process that ended because another was lost; restarting all may help."""


class Peers:
    def __init__(
        self,
        board: Board,
        *,
        beat_seconds: float,
        silence_seconds: float,
        coordinator: str,
        asked: threading.Event,
        last_words: Callable[[], None],
    ) -> None:
        self._board = board
        self._beat_seconds = beat_seconds
        self._silence_seconds = silence_seconds
        self._coordinator = coordinator
        self._asked = asked  # this process has been told to stop
        self._last_words = last_words
        patience = math.ceil(silence_seconds / beat_seconds)
        self._register = Register(board.process, board.processes, patience)
        self._patience = patience
        self._outlast_seconds = 3 * beat_seconds + 1
        self._count = 0
        self._unanswered = 0
        self._state: tuple[State, str] = ("up", "")
        self._stopped = threading.Event()
        self._over = threading.Event()
        self._heard = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=target, name=f"lfpc-{target.__name__}", daemon=True)
            for target in (self._beats, self._answers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def say(self, state: State, word: str = "") -> None:
        """Tells the others the state of this process at once."""
        self._state = (state, " ".join(word.split())[:500])
        self._round()

    def wait_for_the_others(self, seconds: float) -> bool:
        """Waits until every other process has finished or failed; False if that took too long."""
        return self._over.wait(seconds)

    def outlast_the_others(self) -> None:
        """Makes the coordinator end last: when it ends, JAX aborts the processes that have not yet
        reported why they end."""
        if self._board.process == 0:
            time.sleep(self._outlast_seconds)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(2 * self._beat_seconds)

    @property
    def stop_heard(self) -> bool:
        """Whether another process has been told to stop."""
        return self._heard.is_set()

    def heard(self, process: int) -> str:
        """The state of a process, as words for a message."""
        seconds = self._register.silence(process) * self._beat_seconds
        if process in self._register.failed:
            return f"process {process} failed: {self._register.failed[process]}"
        if seconds < 3 * self._beat_seconds:
            return f"process {process} is alive"
        return f"process {process} has been silent for {seconds:.0f} s"

    # ---------------------------------------------------------------- the threads

    def _beats(self) -> None:
        while not self._stopped.is_set():
            self._round()
            if self._register.due:
                self._end(self._verdict())
            self._stopped.wait(self._beat_seconds)

    def _round(self) -> None:
        with self._lock:
            self._count += 1
            state, word = self._state
            if state == "up" and self._asked.is_set():
                word = "stop"
            try:
                self._board.put("beat", note(self._count, state, word))
                notes = self._board.read("beat")
            except Exception as error:
                # These calls should always succeed. The other thread counts those that do not.
                if not self._stopped.is_set():
                    logger.warning(
                        "no answer from the coordinator %s: %s", self._coordinator, error
                    )
                return
            self._unanswered = 0
            self._register.read(notes)
            if self._register.stopping:
                self._heard.set()
            if self._register.over:
                self._over.set()

    def _answers(self) -> None:
        while not self._stopped.wait(self._beat_seconds):
            self._unanswered += 1
            if self._unanswered > self._patience:
                self._end(
                    f"process 0, the coordinator at {self._coordinator}, has not answered for "
                    f"{self._silence_seconds:g} s: it, its host or the network to it has failed",
                    tell=False,
                )

    # ---------------------------------------------------------------- the end

    def _verdict(self) -> str:
        dead, failed = self._register.dead, self._register.failed
        words = []
        if dead:
            words.append(
                f"{named(dead)} of {self._board.processes} gave no sign of life for "
                f"{self._silence_seconds:g} s (killed, out of memory, or the host has gone)"
            )
        words += [f"process {process} failed: {word}" for process, word in failed.items()]
        return "; ".join(words)

    def _end(self, word: str, *, tell: bool = True) -> None:
        # The process ends even if the lock of a log is never released or a call hangs.
        deadline = threading.Timer(self._outlast_seconds + 10, os._exit, (LOST,))
        deadline.daemon = True
        deadline.start()
        self._stopped.set()
        logger.critical("process %d stops: %s", self._board.process, word)
        os.write(2, f"lfpc: process {self._board.process} stops: {word}\n".encode())
        self._last_words()
        if tell:
            self.say("failed", f"stopped because {word}")
            self.outlast_the_others()
        logging.shutdown()
        sys.stdout.flush()
        os._exit(LOST)
