"""Commands that tests tell to stop: each a process of its own, as launch/ starts it."""

import signal
import subprocess
import sys
import time

from support.processes import ROOT, environment


def start(*words, **more):
    """`launch/NAME.py ...`, or a module of tests and the arguments of its `main`."""
    name, *arguments = map(str, words)
    command = [sys.executable, str(ROOT / "launch" / name), *arguments]
    if not name.endswith(".py"):
        run = "import sys; from lfpc_jax.cli.command import launched; "
        run += "sys.exit(launched(*sys.argv[1:]))"
        command = [sys.executable, "-c", run, name, *arguments]
    return subprocess.Popen(
        command, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def until_it_hears(process):
    """Waits until the process has a handler for SIGTERM, which it has before it imports JAX."""
    wait(process, lambda: _hears(process.pid))


def wait(process, happened, seconds=240):
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(process, within):
    """Its exit code and what it has printed; it must end within so many seconds."""
    begun = time.monotonic()
    try:
        printed, errors = process.communicate(timeout=within + 60)
    finally:
        process.kill()
    assert time.monotonic() - begun < within, (printed, errors)
    assert "Traceback" not in errors, errors
    return process.returncode, printed, errors


def _hears(pid):
    with open(f"/proc/{pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
