"""Two processes that share a file system write what one does, and read only their own rows."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from support import hf_folders, xla

SCRIPT = Path(__file__).with_name("two_processes.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def test_two_processes_are_as_one(kept, tmp_path):
    hf = kept(sharded=True)
    command = [sys.executable, str(SCRIPT), str(free_port())]
    started = [
        subprocess.Popen(
            [*command, str(i), str(hf), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"XLA_FLAGS": xla.flags(4)},
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    hf_folders.assert_same_bytes(hf, tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["back", "orbax"]
    for out, _ in outputs:
        read, weights = map(int, out.split()[-2:])
        assert 0.4 * weights < read < 0.8 * weights  # norms, inner biases and odd sizes are whole
