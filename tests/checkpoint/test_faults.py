"""A disk that is full: one error, and nothing else that is printed."""

import errno
import subprocess
import sys

import pytest

from lfpc_jax.checkpoint import faults
from support.processes import environment

OWN_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")
SAVE = """
import sys
from pathlib import Path
import numpy as np
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.cli import command

def body():
    keeper = Checkpoints(Path(sys.argv[1]) / "checkpoints")
    tree = {f"w{i}": np.arange(100_000, dtype=np.float32) + i for i in range(40)}
    keeper.save(1, {"trained": tree, "moments": tree}, {})
    keeper.close()

sys.exit(command.run(body))
"""


def test_a_checkpoint_that_does_not_fit_is_one_line(tmp_path):
    """On a file system of 2 MiB, where the kernel lets this user make one."""
    if subprocess.run([*OWN_MOUNTS, "true"], capture_output=True).returncode:
        pytest.skip("this kernel gives users no mounts of their own")
    mount = f'mount -t tmpfs -o size=2m none {tmp_path} && exec "$@"'
    done = subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", mount, "sh", sys.executable, "-c", SAVE, str(tmp_path)],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {tmp_path}/checkpoints/00000001: the disk is full; free some space, then rerun "
        "the same command\n",
    )


def test_only_a_full_disk_is_called_one(tmp_path):
    full = ValueError('RESOURCE_EXHAUSTED: Error writing "w/0": No space left on device')
    made = faults.of_writing(tmp_path, full)
    assert isinstance(made, OSError)
    assert (made.errno, made.filename) == (errno.ENOSPC, str(tmp_path))
    for other in (ValueError("INVALID_ARGUMENT: no such array"), OSError(errno.EIO, "I/O error")):
        assert faults.of_writing(tmp_path, other) is other
