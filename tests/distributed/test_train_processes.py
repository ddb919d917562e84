"""The trainer itself in two processes: told to stop, killed, and gone on with, at real steps."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rollout import small

from lfpc_jax.checkpoint import training
from lfpc_jax.cli.run_folder import RunFolder
from lfpc_jax.data import layout

ROOT = Path(__file__).parents[2]
TARGET = ((20.0, 20.0, 60.0, 60.0),)
STEPS = 50


class Pair:
    def __init__(self, folder: Path, name: str):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = str(probe.getsockname()[1])
        env = os.environ | {
            "MICRO": str(folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "", "MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2",
        }  # fmt: skip
        command = [
            sys.executable, str(ROOT / "launch/train.py"), "--config",
            str(ROOT / "tests/cli/micro.py"), "--run", str(folder / "run"),
            "--cache", str(folder / "compiled"), "--steps", str(STEPS),
        ]  # fmt: skip
        self.logs = [folder / f"{name}-{rank}" for rank in range(2)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            with log.open("wb") as out:
                self.processes.append(
                    subprocess.Popen(command, env=env | {"RANK": str(rank)}, stdout=out, stderr=out)
                )

    def ended(self) -> list[int]:
        return [process.wait(timeout=600) for process in self.processes]

    def said(self) -> str:
        return "\n---\n".join(log.read_text()[-3000:] for log in self.logs)


@pytest.fixture
def pair(tmp_path):
    small.hf_folder(tmp_path / "hf")
    layout.write(tmp_path / "set", [small.record(i, targets=(TARGET,)) for i in range(6)])
    started = []

    def start(name: str) -> Pair:
        started.append(Pair(tmp_path, name))
        return started[-1]

    yield start
    for made in started:
        for process in made.processes:
            process.kill()
            process.wait()


def steps(run: Path) -> list[int]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["step"] for line in found if line["kind"] == "train"]


def newest(run: Path) -> int:
    saved = training.latest(RunFolder(run).checkpoints)
    return 0 if saved is None else saved.step


def until_step(run: Path, step: int, made: Pair) -> None:
    deadline = time.monotonic() + 600
    while newest(run) < step:
        assert time.monotonic() < deadline, made.said()
        assert all(process.poll() is None for process in made.processes), made.said()
        time.sleep(0.2)


@pytest.mark.skipif("LFPC_SLOW" not in os.environ, reason="takes minutes; LFPC_SLOW=1 runs it")
def test_a_run_of_two_processes_is_killed_gone_on_with_and_told_to_stop(pair, tmp_path):
    run = tmp_path / "run"
    first = pair("first")
    until_step(run, 1, first)
    first.processes[1].kill()
    killed = time.monotonic()
    assert first.ended() == [75, -signal.SIGKILL], first.said()
    assert time.monotonic() - killed < 60
    assert "process 0 stops: process 1 of 2 gave no sign of life" in first.logs[0].read_text()
    left = newest(run)

    second = pair("second")
    until_step(run, left + 1, second)
    second.processes[1].send_signal(signal.SIGTERM)
    assert second.ended() == [0, 0], second.said()
    assert newest(run) > left
    assert sorted(set(steps(run))) == [*range(1, newest(run) + 1)]
    assert newest(run) < STEPS
