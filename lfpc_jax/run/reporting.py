"""What a training run prints: a log, a line for every step, and seconds by phase."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax


class Clock:
    """Seconds of a step by phase; `enter` is called with the name of each phase as it begins."""

    def __init__(self, enter: Callable[[str], None]) -> None:
        self.enter = enter
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.enter(phase)
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def values(self, sampled: int) -> dict[str, float]:
        """The times as metrics; `sampled` is how many tokens the step sampled."""
        whole = sum(self.seconds.values())
        times = {f"time/{phase}": seconds for phase, seconds in self.seconds.items()}
        rollout = self.seconds["rollout"] or 1e-9
        return {**times, "time/step": whole, "speed/sampled_tokens": sampled / rollout}

    def __str__(self) -> str:
        return " ".join(f"{phase} {s:.1f}" for phase, s in self.seconds.items() if s >= 0.05)


def summary(values: Mapping[str, float]) -> str:
    """The metrics that a line of the log shows."""
    metrics = {
        "reward": "reward/total",
        "acc": "reward/accuracy",
        "masked": "reward/masked",
        "crops": "crop/rate",
        "iou": "crop/iou",
        "loss": "update/loss",
    }
    return " ".join(f"{name} {values[key]:.3f}" for name, key in metrics.items() if key in values)


class Terminal(logging.Handler):
    """Writes to whatever standard error is at that moment, since a live display replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class LogFile(logging.FileHandler):
    """Raises what a full disk raises; `logging` would print a traceback for each line instead."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, self.baseFilename) from error
        super().handleError(record)


def log_to(file: Path, *, on_terminal: str) -> None:
    """Logs the whole package to a file. The terminal shows warnings, and everything from the logger
    that `on_terminal` names. Only the first process logs."""
    package = logging.getLogger("lfpc_jax")
    if jax.process_index():
        return
    terminal, to_file = Terminal(), LogFile(file)
    terminal.addFilter(lambda line: line.name == on_terminal or line.levelno >= logging.WARNING)
    for before in package.handlers[:]:  # of another run of this process
        if isinstance(before, Terminal | logging.FileHandler):
            package.removeHandler(before)
            before.close()
    package.setLevel(logging.INFO)
    package.propagate = False  # Orbax adds a handler to the root logger
    for handler in (terminal, to_file):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        package.addHandler(handler)
