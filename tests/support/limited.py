"""Commands in a worker process, one after another: what they print and return, within limits of
time and memory. The worker has imported everything, so that a command takes milliseconds.

A command that hangs or dies ends the worker, and the next begins a new one."""

import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from support.processes import environment

SECONDS, MOST_BYTES = 10.0, 2 << 30
_PATIENCE = 180.0
"""Of the clock on the wall, which says little on a busy machine."""


@dataclass(frozen=True)
class Outcome:
    code: int | None
    printed: str
    errors: str
    seconds: float = 0.0
    peak: int = 0

    @property
    def fault(self) -> str:
        """What is wrong with it; empty for a success, a counted loss or one `error:` line."""
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        if self.code is None:
            return "raised, hung or died"
        if "Traceback" in self.printed + self.errors:
            return "a traceback"
        if self.seconds > SECONDS:
            return f"{self.seconds:.1f} s"
        if self.peak > MOST_BYTES:
            return f"{self.peak / 2**30:.2f} GiB"
        if self.code == 0:
            return "an error with code 0" if lines else ""
        if self.code != 1 or len(lines) != 1:
            return f"code {self.code} and {len(lines)} error lines"
        after = self.errors[self.errors.rindex("error: ") :].splitlines()[1:]
        if any(line[:1] not in (" ", "{", "}") for line in after):
            return "an error of several lines"
        return "an endless line" if len(lines[0]) > 3000 else ""


class Worker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, surface: str, *words: object) -> Outcome:
        """Runs a function of `support.surfaces` on the words of a command."""
        process = self._running()
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([surface, *map(str, words)]).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE)
        line = process.stdout.readline() if ready else b""
        if not line:
            self.close()
            return Outcome(None, *self._said())
        answer = json.loads(line)
        return Outcome(answer["code"], *self._said(), answer["seconds"], answer["peak"])

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "support.limited", str(self.folder)]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, cwd=self.folder,
                env=environment(),
            )  # fmt: skip
            assert self._process.stdout
            assert self._process.stdout.readline() == b"ready\n"
        return self._process

    def _said(self) -> tuple[str, str]:
        texts = [(self.folder / name).read_text(errors="replace") for name in ("out", "err")]
        return texts[0], texts[1]


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def main(folder: Path) -> None:
    """The worker: takes a command a line, and answers in a line."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(file, descriptor)
    from support import surfaces

    room = _status("VmSize") + 2 * MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    answers.write(b"ready\n")
    for line in sys.stdin.buffer:
        surface, *words = json.loads(line)
        for descriptor in (1, 2):
            os.ftruncate(descriptor, 0)
        Path("/proc/self/clear_refs").write_text("5")
        begun, code = time.process_time(), None
        try:
            code = getattr(surfaces, surface)(words)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        seconds = time.process_time() - begun
        answer = {"code": code, "seconds": seconds, "peak": _status("VmHWM")}
        answers.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    sys.stderr.flush()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", scratch)
        main(Path(sys.argv[1]))
