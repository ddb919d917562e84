"""Processes that tests start: their environment, ports, and two that run one script together."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from support import xla

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent


def environment(*, devices: int = 1, **more: str) -> dict[str, str]:
    """The environment of a process that imports the package and `support`, on `devices` CPUs."""
    return os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": xla.flags(devices),
        **more,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def coordinator_flags() -> list[str]:
    """For the first of two processes and the second, whose number follows."""
    return ["--coordinator", f"localhost:{free_port()}", "--processes", "2", "--process"]


def run_both(script: Path, *arguments: object, devices: int) -> list[str]:
    """Runs `script PORT INDEX ARGUMENTS ...` as two processes; returns what each has printed."""
    command = [sys.executable, str(script), str(free_port())]
    started = [
        subprocess.Popen(
            [*command, str(index), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(devices=devices),
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], outputs
    return [printed for printed, _ in outputs]
