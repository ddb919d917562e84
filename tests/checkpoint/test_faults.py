"""A disk that is full, and reads that fail: one error, and nothing else that is printed."""

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


@pytest.mark.seconds
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


LEFT = """
import asyncio
import numpy as np
import tensorstore as ts
from orbax.checkpoint._src.serialization import limits, serialization
from lfpc_jax.checkpoint import faults

async def never(*_, **__):
    await asyncio.Event().wait()

async def begin():
    read = serialization._read_array_index_and_device_put(
        [], (slice(0, 3),), ts.array(np.zeros(3)), global_shape=(3,), new_shard_shape=(3,),
        dtype=None, byte_limiter=limits.UnlimitedInFlightBytes(), strict=True, dll=None,
        memory_kind=None,
    )
    read.send(None)
    return read

class Other:
    def __del__(self):
        raise ValueError("another matter")

serialization._read_shard = never
faults.hush()
asyncio.run(begin())
Other()
"""


@pytest.mark.seconds
def test_reads_that_an_error_left_behind_print_nothing():
    """Orbax turns the end of a read that nobody waits for any more into an exception, of which
    Python printed 60 lines at some later time."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "orbax" not in done.stderr
    assert "ValueError: another matter" in done.stderr
