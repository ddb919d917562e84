"""The bars of a terminal, as it would show them, and the lines of everything else."""

import io
import logging
import re
import sys
from contextlib import suppress

import pytest
from rich.console import Console

from lfpc_jax.run import progress
from lfpc_jax.run.reporting import Terminal, log_to


@pytest.fixture
def terminal(monkeypatch):
    """What is printed to standard error as if it were a terminal of 100 columns."""
    printed = io.StringIO()

    def console(file):
        assert file is sys.stderr
        return Console(file=printed, force_terminal=True, width=100, color_system=None)

    monkeypatch.setattr(progress, "Console", console)
    return printed


def lines(printed: io.StringIO) -> list[str]:
    """All that has been drawn, in order, without the cursor's movements."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.getvalue())
    return [line.strip() for line in plain.splitlines() if line.strip()]


def drawn(shown: progress.StepsDisplay, printed: io.StringIO) -> list[str]:
    """What is there now."""
    printed.seek(0)
    printed.truncate()
    shown._live.refresh()
    return lines(printed)


def test_a_terminal_shows_the_step_the_phase_the_last_one_and_the_time_left(terminal):
    now = 0.0
    shown = progress.StepsDisplay(8)
    shown.resume(5)
    shown._live.live.auto_refresh = False
    shown._live.get_time = lambda: now
    for task in shown._live.tasks:
        task._get_time = shown._live.get_time
    assert terminal.getvalue() == ""
    shown.phase("rollout")
    [line] = drawn(shown, terminal)
    assert line.split()[2:] == ["5/8", "-:--:--", "rollout"]
    with shown.bar("rollouts", 4, every=10.0) as advance:
        advance(3)
        above, below = drawn(shown, terminal)
        assert above.startswith("steps")
        assert below.split()[0::2][:2] == ["rollouts", "3/4"]
    shown.phase("update")
    for _ in range(2):  # a step of a minute; the time of the first, which compiles, does not count
        now += 60.0
        shown.done("reward 0.500 [b]")
    shown.phase("data")
    [line] = drawn(shown, terminal)
    assert line.split()[2:] == ["7/8", "0:01:00", "data", "|", "reward", "0.500", "[b]"]
    shown.close()


def test_lines_are_printed_above_the_bar(terminal):
    shown, before = progress.StepsDisplay(2), sys.stderr
    handler = Terminal()
    record = logging.LogRecord("lfpc_jax.train", 20, "", 0, "step 1 of 2", None, None)
    shown.phase("data")
    handler.emit(record)
    shown.close()
    assert sys.stderr is before
    found = lines(terminal)
    assert found.count("step 1 of 2") == 1
    assert "0/2" in found[-1]


def test_elsewhere_only_the_work_of_a_phase_has_lines(capsys):
    shown = progress.StepsDisplay(3)
    shown.phase("rollout")
    with shown.bar("rollouts", 2) as advance:
        advance(1)
        advance(1)
    shown.done("reward 1.000")
    shown.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("rollouts: 1 of 2, 0.0 s, ")
    assert second.startswith("rollouts: 2 of 2, 0.0 s, ")


def test_short_work_has_no_lines(capsys):
    with progress.bar("rollouts", 2, every=10.0) as advance:
        advance(2)
    assert capsys.readouterr().err == ""


def test_a_log_on_a_full_disk_is_an_error_and_no_traceback(tmp_path, capsys, monkeypatch):
    """/dev/full is a disk that has no space left."""
    package = logging.getLogger("lfpc_jax")
    for name, value in (("handlers", []), ("propagate", True), ("level", logging.NOTSET)):
        monkeypatch.setattr(package, name, value)
    file = tmp_path / "log.txt"
    file.symlink_to("/dev/full")
    log_to(file, on_terminal="lfpc_jax.train")
    with pytest.raises(OSError, match="No space left") as told:
        logging.getLogger("lfpc_jax.run").info("a line")
    assert told.value.filename == str(file)
    for handler in package.handlers:
        with suppress(OSError):  # it still cannot write the line
            handler.close()
    assert capsys.readouterr().err == ""
