"""Real processes over loopback: they agree, meet, stop together, and never outlive a lost one."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import free_port

pytestmark = pytest.mark.compiles

SCRIPT = Path(__file__).with_name("member.py")
LOST = 75
# Import and start-up of four processes on busy cores, then a verdict: SILENCE in member.py is 6 s.
PATIENCE = 150


class Members:
    """Started processes, their output in files."""

    def __init__(self, folder: Path, count: int, mode: str):
        port = str(free_port())
        self.mode, self.count = mode, count
        self.files = [folder / f"out-{i}" for i in range(count)]
        self.processes = [self._start(port, i) for i in range(count)]

    def _start(self, port: str, index: int) -> subprocess.Popen:
        with self.files[index].open("wb") as out:
            return subprocess.Popen(
                [sys.executable, str(SCRIPT), port, str(self.count), str(index), self.mode],
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def out(self, index: int) -> str:
        return self.files[index].read_text()

    def outputs(self) -> str:
        return "\n".join(f"--- {i}\n{self.out(i)}" for i in range(self.count))

    def until_all_say(self, word: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while any(word not in self.out(i) for i in range(self.count)):
            assert time.monotonic() < deadline, self.outputs()
            time.sleep(0.1)

    def codes(self, *, but: int | None = None) -> list[int]:
        deadline = time.monotonic() + PATIENCE
        found = []
        for i, process in enumerate(self.processes):
            if i == but:
                continue
            try:
                found.append(process.wait(timeout=max(1, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                pytest.fail(f"process {i} still runs:\n{self.outputs()}")
        return found


@pytest.fixture
def members(tmp_path, reaped):
    def start(count: int, mode: str) -> Members:
        made = Members(tmp_path, count, mode)
        reaped.extend(made.processes)
        return made

    return start


def test_a_differing_process_is_named_with_its_part_in_every_process(members):
    four = members(4, "agree")
    assert four.codes() == [0] * 4, four.outputs()
    for i in range(4):
        assert "agreed once" in four.out(i)
        assert (
            "process 2 differs from processes 0, 1, 3 in 'config' "
            "(line 2: 'steps 90' instead of 'steps 80')" in four.out(i)
        )
        assert "process 0 differs from processes 1, 2, 3 in 'data'" in four.out(i)
        assert "'code'" not in four.out(i)
        assert "'versions'" not in four.out(i)


def test_a_barrier_names_who_is_missing(members):
    two = members(2, "barrier")
    assert two.codes() == [0, 0], two.outputs()
    assert "'saved': process 1 did not arrive within 1.5 s; process 1 is alive" in two.out(0)
    assert "'saved': not every process arrived" in two.out(1)
    assert "'all'" not in two.outputs()


def test_sigterm_at_one_stops_all_after_the_same_step(members):
    two = members(2, "term")
    two.until_all_say("stepping")
    for _ in range(2):  # the second as from a launcher that hands it on
        two.processes[1].send_signal(signal.SIGTERM)
        time.sleep(0.02)
    assert two.codes() == [0, 0], two.outputs()
    steps = [re.search(r"stopped at (\d+)", two.out(i)) for i in range(2)]
    assert all(steps), two.outputs()
    assert steps[0][1] == steps[1][1]
    assert "knew of a SIGTERM" in two.out(0)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sigterm_after_all_is_done_changes_no_exit_code(members, count):
    late = members(count, "late-term")
    assert late.codes() == [0] * count, late.outputs()


def test_long_work_is_cut_short_in_all(members):
    two = members(2, "seen")
    two.until_all_say("ready")
    two.processes[0].send_signal(signal.SIGTERM)
    assert two.codes() == [0, 0], two.outputs()
    assert "agreed: True" in two.out(0)
    assert "agreed: True" in two.out(1)


@pytest.mark.long
@pytest.mark.parametrize(("count", "mode"), [(4, "work"), (2, "collective"), (2, "barrier-wait")])
def test_a_killed_process_ends_the_others_with_its_name(members, count, mode):
    made = members(count, mode)
    made.until_all_say("ready")
    made.processes[1].kill()
    killed = time.monotonic()
    codes = made.codes()
    assert time.monotonic() - killed < 60, made.outputs()
    assert codes == [LOST, -signal.SIGKILL, *[LOST] * (count - 2)], made.outputs()
    for i in {*range(count)} - {1}:
        assert "stops: process 1 of" in made.out(i), made.outputs()
        assert "gave no sign of life for 6 s" in made.out(i)
    assert "process 1 (pid" in made.out(1)
    assert "ended without a word" in made.out(1)


def test_the_death_of_the_coordinator_is_named_by_the_witnesses(members):
    two = members(2, "work")
    two.until_all_say("ready")
    two.processes[0].kill()
    killed = time.monotonic()
    codes = two.codes()
    assert time.monotonic() - killed < 60
    assert codes[1] != 0, two.outputs()
    deadline = time.monotonic() + 30
    while "process 0, the coordinator at localhost" not in two.out(1):
        assert time.monotonic() < deadline, two.outputs()
        time.sleep(0.1)
    assert "It coordinated the others" in two.out(0)


@pytest.mark.long
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_host_that_answers_no_more_is_as_good_as_dead(members, frozen):
    """A stopped process keeps its connections open, as a host without power seems to."""
    two = members(2, "work")
    two.until_all_say("ready")
    two.processes[frozen].send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    assert two.codes(but=frozen) == [LOST], two.outputs()
    assert time.monotonic() - stopped < 60
    word = "process 0, the coordinator at localhost" if frozen == 0 else "process 1 of 2 gave"
    assert f"process {1 - frozen} stops: {word}" in two.out(1 - frozen), two.outputs()


@pytest.mark.long
@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("fails", "RuntimeError: no space left on device"),
        ("handled", "cannot read scenes.parquet"),
    ],
)
def test_a_process_that_fails_tells_the_others_why(members, mode, why):
    two = members(2, mode)
    assert two.codes() == [LOST, 1 if mode == "fails" else 2], two.outputs()
    assert f"process 0 stops: process 1 failed: {why}" in two.out(0), two.outputs()


@pytest.mark.long
def test_one_that_never_comes_is_named_at_the_start(members):
    three = members(3, "late")
    assert three.codes()[:2] == [1, 1], three.outputs()
    for i in range(2):
        assert "process 2 of 3 did not come" in three.out(i), three.outputs()
