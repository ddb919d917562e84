"""Two processes that share a file system write what one does, and read only their own rows."""

import os
from pathlib import Path

import pytest

from support import hf_folders
from support.processes import run_both

pytestmark = pytest.mark.compiles


@pytest.mark.long
def test_two_processes_are_as_one(kept, tmp_path):
    hf = kept(sharded=True)
    printed = run_both(Path(__file__).with_name("two_processes.py"), hf, tmp_path, devices=4)
    hf_folders.assert_same_bytes(hf, tmp_path / "back")
    assert sorted(os.listdir(tmp_path)) == ["back", "orbax"]
    for out in printed:
        read, weights = map(int, out.split()[-2:])
        assert 0.4 * weights < read < 0.8 * weights  # norms, inner biases and odd sizes are whole
