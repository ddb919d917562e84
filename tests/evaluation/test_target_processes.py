"""A target's evaluation that is killed, stopped, or shared between processes: the same bytes."""

import json
import signal
import subprocess
import sys

import pytest
from evaluation.test_journal import until_lines

from lfpc_jax.cli import evaluate as command
from support import rigged, rigged_answers
from support.processes import TESTS, coordinator_flags, environment

COUNT = 10
PARTS = ("tool", "direct", "random", "true_x4", "noise")


def start(out, data, seconds, *flags):
    name = "support.rigged_answers"
    line = [sys.executable, "-m", name, str(out), str(data), str(seconds), *flags]
    return subprocess.Popen(line, env=environment(), cwd=TESTS, text=True)


@pytest.fixture
def here(monkeypatch):
    """The same command, at once and to its end, in this process."""

    def run(out, data):
        network = rigged_answers.proposer(rigged_answers.outlines_two_in_three)
        engines = rigged_answers.targets(rigged_answers.RiggedTarget(), network)
        monkeypatch.setattr(command, "TargetEngines", engines)
        assert command.main(rigged_answers.command(out, data)) == 0
        return (out / "results.json").read_bytes(), (out / "scores.jsonl").read_bytes()

    monkeypatch.chdir(TESTS)
    return run


@pytest.mark.long
def test_killed_evaluations_go_on_to_the_same_bytes(tmp_path, here):
    """kill -9 amid the true boxes, once more amid a line of the altered crops, then to the end."""
    data = rigged.write_set(tmp_path / "data", COUNT)
    whole = here(tmp_path / "whole", data)
    out = tmp_path / "killed"
    for part, lines in ("true_x4", 3), ("noise", 2):
        file = out / "trajectories" / f"set-32-{part}-p0.jsonl"
        killed = start(out, data, 0.1)
        until_lines(file, lines, killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not (out / "results.json").exists()
        with file.open("ab") as torn:
            torn.write(b'{"version": 1, "record": {"id"')
    assert here(out, data) == whole
    for part in PARTS:
        once = (out / "answers" / f"set-32-{part}-p0.jsonl").read_bytes().splitlines()
        assert len({json.loads(line)["record"] for line in once}) == len(once)


@pytest.mark.slow
def test_two_processes_stop_together_go_on_and_leave_what_one_does(tmp_path, here):
    data = rigged.write_set(tmp_path / "data", COUNT)
    out = tmp_path / "both"

    def pair(seconds):
        flags = coordinator_flags()
        return [start(out, data, seconds, *flags, str(number)) for number in range(2)]

    processes = pair(0.3)
    try:
        until_lines(out / "trajectories" / "set-32-tool-p1.jsonl", 1, *processes)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(120) for process in processes] == [0, 0]
        assert not (out / "results.json").exists()
        processes = pair(0)
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    found = (out / "results.json").read_bytes(), (out / "scores.jsonl").read_bytes()
    assert found == here(tmp_path / "one", data)
