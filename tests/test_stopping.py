"""SIGTERM and Ctrl-C: heard from the first moment, by all commands, whatever they are doing."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lfpc_jax import stopping
from lfpc_jax.plan import compiling
from lfpc_jax.plan.programs import Uncompiled
from lfpc_jax.run import steps
from support import told
from support.processes import environment

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}

BUSY = "import hashlib; print('busy', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
"""Minutes within one call into C, as a compiler's."""


def script(text):
    """A process that runs `text` as a command's body, once it has printed a line."""
    command = "import sys; from lfpc_jax import stopping; from lfpc_jax.cli import command\n"
    command += "def body():\n"
    command += "".join(f"    {line}\n" for line in text.splitlines())
    command += "sys.exit(command.run(body))"
    process = subprocess.Popen(
        [sys.executable, "-c", command], env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "busy\n"
    return process


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    "words",
    [
        ("train.py", "--config", "stage1.py"),
        ("convert.py", "to-orbax", "nowhere", "out"),
        ("ask.py", "--model", "nowhere", "--image", "none.png", "--question", "?"),
        ("label_boxes.py", "nowhere", "out", "--boxes", "truth"),
        ("compare.py", "out", "--arm", "one", "nowhere"),
        ("report.py", "nowhere"),
        ("replay.py", "nowhere"),
        ("plan.py", "--config", "stage1.py", "--topology", "v5e:4x4"),
        ("new_model.py", "nowhere", "out"),
        ("demo.py", "--out", "nowhere"),
    ],
    ids=lambda words: words[0],
)
def test_told_in_its_first_seconds_a_command_says_so_in_one_line(words, number):
    process = told.start(*words)
    told.until_it_hears(process)
    process.send_signal(number)
    code, printed, errors = told.ended(process, within=10)
    assert (code, printed, errors) == (CODES[number], "", f"stopped by {NAMES[number]}\n")


@pytest.mark.parametrize("number", CODES)
def test_a_destructor_in_which_the_signal_comes_does_not_swallow_it(number):
    """Python prints what a destructor raises, and goes on."""
    process = script(
        "import time\n"
        "class Slow:\n"
        "    def __del__(self):\n"
        "        print('busy', flush=True)\n"
        "        time.sleep(60)\n"
        "Slow()\n"
        "time.sleep(60)"
    )
    process.send_signal(number)
    code, printed, errors = told.ended(process, within=stopping.GRACE - 1)
    assert (code, printed, errors) == (CODES[number], "", f"stopped by {NAMES[number]}\n")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.seconds
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("kind", [(signal.SIGKILL,), (signal.SIGINT, signal.SIGINT)])
def test_commands_do_not_outlive_the_one_that_runs_them(tmp_path, kind, jobs):
    """They would hold the folder, and the same command could not resume there. One that writes to
    the same terminal has nothing more to say after the last Ctrl-C."""
    (tmp_path / "long.py").write_text(
        "import os, pathlib, time\n"
        "from lfpc_jax.cli import command\n"
        "def body():\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(60)\n"
        "command.run(body)\n"
    )
    process = script(
        "import pathlib, sys\n"
        "from lfpc_jax.run import steps\n"
        f"out = pathlib.Path({str(tmp_path)!r})\n"
        "steps.program = lambda name: (sys.executable, str(out / name))\n"
        "print('busy', flush=True)\n"
        f"steps.run([steps.Step('one', ('long.py',))], out, {{}}, jobs={jobs})"
    )
    noted = tmp_path / "pid"
    told.wait(process, lambda: noted.exists() and noted.read_text())
    pid = int(noted.read_text())
    assert alive(pid)
    for number in kind:
        process.send_signal(number)
        time.sleep(0.05)
    assert process.wait(10) in (-9, 130)
    _, errors = process.communicate()
    if process.returncode == 130:
        assert errors.splitlines()[-1] == "stopped at once by a second Ctrl-C"
    deadline = time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nor_does_a_compilation_of_a_plan():
    command = (sys.executable, "-c", "import os, sys; sys.exit(os.environ['LFPC_STARTED_BY'])")
    program = Uncompiled("none", lower=lambda: None, kinds={})
    with pytest.raises(RuntimeError, match=str(os.getpid())):
        compiling.assigned(program, command)


@pytest.mark.parametrize("number", CODES)
def test_nothing_is_raised_while_a_command_imports(number):
    """Where C code initialises a module, an exception can end in a crash."""
    process = subprocess.Popen(
        [sys.executable, "-c",
         "import time\n"
         "from lfpc_jax import stopping\n"
         "stopping.listen()\n"
         "print('busy', flush=True)\n"
         "try:\n    time.sleep(60)\n"
         "except BaseException as error: print('raised', error)"],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "busy\n"
    process.send_signal(number)
    code, printed, errors = told.ended(process, within=2)
    assert (code, printed, errors) == (CODES[number], "", f"stopped by {NAMES[number]}\n")


@pytest.mark.seconds
@pytest.mark.parametrize("number", CODES)
def test_a_command_that_is_within_a_compiler_ends_after_seconds(number):
    process = script(BUSY)
    process.send_signal(number)
    code, _, errors = told.ended(process, within=stopping.GRACE + 5)
    assert (code, errors) == (CODES[number], f"stopped by {NAMES[number]}\n")


@pytest.mark.seconds
def test_so_does_one_that_resumes_with_its_word_and_code():
    process = script(f"stopping.resumable('out')\n{BUSY}")
    process.send_signal(signal.SIGTERM)
    code, printed, errors = told.ended(process, within=stopping.GRACE + 5)
    assert (code, printed, errors) == (0, "stopped; rerun the same command to resume out\n", "")


@pytest.mark.seconds
def test_a_patient_one_hears_a_second_ctrl_c_but_no_second_sigterm():
    process = script(f"stopping.patient('stops after this step')\n{BUSY}")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert process.stderr.readline() == "SIGTERM: stops after this step\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(stopping.GRACE + 1)
    process.send_signal(signal.SIGINT)
    code, _, errors = told.ended(process, within=2)
    assert (code, errors) == (130, "stopped at once by a second Ctrl-C\n")


@pytest.mark.seconds
def test_an_exit_code_stays_once_the_work_is_done():
    """As while a process waits at its exit for its threads."""
    process = script(
        "import atexit, time\natexit.register(time.sleep, 2)\nprint('busy', flush=True)"
    )
    time.sleep(1)
    for number in CODES:
        process.send_signal(number)
    assert told.ended(process, within=5) == (0, "", "")


@pytest.mark.seconds
def test_processes_that_draw_end_without_a_word_of_their_own(tmp_path):
    out = tmp_path / "world"
    process = told.start("synthesize.py", out, "--count", 5000, "--size", 448, "--workers", 2)
    told.wait(process, lambda: any(tmp_path.glob(".world.partial/images/*")))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, printed, errors = told.ended(process, within=10)
    assert (code, printed) == (130, "")
    assert errors.splitlines()[-1] == "stopped by Ctrl-C"
    assert not [line for line in errors.splitlines()[:-1] if not line.startswith("drawing ")]
    assert not list(tmp_path.iterdir())


@pytest.mark.seconds
def test_processes_that_draw_do_not_outlive_a_killed_command(tmp_path):
    out = tmp_path / "world"
    process = told.start("synthesize.py", out, "--count", 5000, "--size", 448, "--workers", 2)
    told.wait(process, lambda: any(tmp_path.glob(".world.partial/images/*")))
    process.kill()
    process.communicate(timeout=10)  # they have its output open as long as they live


@pytest.mark.seconds
def test_a_second_ctrl_c_is_the_last_word_of_processes_that_draw_too(tmp_path):
    """Python's own process that cleans up after them warns of what a killed one left."""
    out = tmp_path / "world"
    process = told.start("synthesize.py", out, "--count", 5000, "--size", 448, "--workers", 2)
    told.wait(process, lambda: any(tmp_path.glob(".world.partial/images/*")))
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)  # or they are one
    code, _, errors = told.ended(process, within=10)
    assert (code, errors.splitlines()[-1]) == (130, "stopped at once by a second Ctrl-C")


def test_commands_that_run_others_stop_them_and_take_none_for_done(tmp_path, monkeypatch):
    """The child exits with 0 when it is told alone, and so would count as done."""
    (tmp_path / "long.py").write_text(
        "import pathlib, sys, time\n"
        "from lfpc_jax import stopping\n"
        "from lfpc_jax.cli import command\n"
        "out, wait = pathlib.Path(sys.argv[1]), pathlib.Path('wait')\n"
        "def body():\n"
        "    stopping.patient('stops')\n"
        "    out.touch()\n"
        "    while wait.exists() and not stopping.told.is_set():\n"
        "        time.sleep(0.01)\n"
        "    return command.stopped(out) if wait.exists() else 0\n"
        "sys.exit(command.run(body))\n"
    )
    monkeypatch.setattr(steps, "program", lambda name: (sys.executable, str(tmp_path / name)))
    monkeypatch.chdir(tmp_path)
    for name in ("PYTHONPATH", "JAX_PLATFORMS"):
        monkeypatch.setenv(name, environment()[name])
    (tmp_path / "wait").touch()
    planned = [
        steps.Step("one", ("long.py", "begun")),
        steps.Step("next", ("long.py", "never"), after=("one",)),
    ]
    stopping.listen()
    watcher = subprocess.Popen(
        [sys.executable, "-c",
         "import os, pathlib, signal, time\n"
         "while not pathlib.Path('begun').exists(): time.sleep(0.01)\n"
         "os.kill(os.getppid(), signal.SIGTERM)"]
    )  # fmt: skip
    assert steps.run(planned, tmp_path / "out", {}, jobs=1) == 0
    watcher.wait()
    assert stopping.told.is_set()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "never").exists()
    stopping.forget()
    (tmp_path / "wait").unlink()
    assert steps.run(planned, tmp_path / "out", {}, jobs=1) == 0
    assert not stopping.told.is_set()
    assert len(list((tmp_path / "out" / "done").iterdir())) == 2
