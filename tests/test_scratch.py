"""Tests leave nothing in the temporary directory."""

import subprocess
import sys

from support.processes import environment

BEGIN = "from support import scratch; end = scratch.begin(); scratch.folder('small-'); "


def run(tmp_path, more):
    env = environment(TMPDIR=str(tmp_path))
    env.pop("LFPC_TESTS_SCRATCH", None)
    return subprocess.run([sys.executable, "-c", BEGIN + more], env=env).returncode


def test_the_folders_of_a_run_go_with_it_and_those_of_a_killed_run_with_the_next(tmp_path):
    assert run(tmp_path, "end()") == 0
    assert not list(tmp_path.iterdir())
    assert run(tmp_path, "import os; os.kill(os.getpid(), 9)") == -9
    assert len(list(tmp_path.glob("lfpc-tests-*/small-*"))) == 1
    living = (
        "import os, subprocess, sys; del os.environ['LFPC_TESTS_SCRATCH']; "
        f"subprocess.run([sys.executable, '-c', {BEGIN!r} + 'end()'], check=True); "
        "from pathlib import Path; import tempfile; "
        "assert len(list(Path(tempfile.gettempdir()).glob('lfpc-tests-*/small-*'))) == 1"
    )
    assert run(tmp_path, living + "; end()") == 0  # another run does not take a living one's
    assert not list(tmp_path.iterdir())
