"""One command at a time in a folder: refused by name, and never kept out by the dead."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lfpc_jax.cli import evaluate, select_resolution, train
from lfpc_jax.run import claim
from lfpc_jax.run import folder as run_folder
from lfpc_jax.run.claim import FolderClaim, Owner, held
from support import micro
from support.processes import environment

HERE = Path(__file__).parent
BEAT, PATIENCE = 0.2, 3.0


class Other:
    """Another process with a claim on a folder."""

    def __init__(self, folder):
        command = [sys.executable, str(HERE / "claimant.py"), str(folder), str(BEAT)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=environment(), stdin=pipe, stdout=pipe, text=True
        )
        assert self.process.stdout.readline() == "held\n"

    def asked(self):
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def ended(self):
        self.process.stdin.close()
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        return code


@pytest.fixture
def other(tmp_path):
    made = Other(tmp_path / "run")
    yield made
    made.process.kill()
    made.ended()


@pytest.fixture
def elsewhere(monkeypatch):
    """This process is on another host, from which that of a claim cannot be seen."""
    monkeypatch.setattr(claim, "_place", lambda: "another host")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(claim, "_POLL", 0.1)


def taken(folder, patience=PATIENCE):
    """Seconds it took."""
    begun = time.monotonic()
    with held(folder, beat=BEAT, patience=patience) as made:
        made.check()
        assert list((folder / "lock").iterdir()) == [made.file]
        return time.monotonic() - begun


@pytest.mark.seconds
def test_a_second_is_refused_by_the_name_of_the_first_until_it_ends(tmp_path, other):
    folder, pid = tmp_path / "run", other.process.pid
    said = rf"run: is in use by `claimant.py .*run 0.2` \(process {pid} on .*, since 2"
    begun = time.monotonic()
    with pytest.raises(ValueError, match=said):
        taken(folder)
    assert time.monotonic() - begun < 2, "the process itself can be asked"
    assert other.asked() == "ours\n"
    assert other.ended() == 0
    assert not folder.exists(), "nothing is left of a command that made nothing"
    assert taken(folder) < 2


@pytest.mark.seconds
@pytest.mark.parametrize("buried", [True, False])
def test_one_that_was_killed_keeps_nobody_out(tmp_path, other, buried, capsys):
    other.process.kill()
    if buried:
        other.process.wait()
    else:
        time.sleep(0.5)  # and still has a number
    assert taken(tmp_path / "run") < 2
    assert f"(process {other.process.pid} on" in capsys.readouterr().err


@pytest.mark.seconds
def test_one_whose_number_another_process_has_by_now_keeps_nobody_out(tmp_path, other):
    other.process.kill()
    other.process.wait()
    [file] = (tmp_path / "run" / "lock").iterdir()
    theirs, ours = (f'"pid": {pid}' for pid in (other.process.pid, os.getpid()))
    file.write_text(file.read_text().replace(theirs, ours))
    assert taken(tmp_path / "run") < 2


@pytest.mark.seconds
@pytest.mark.usefixtures("quick")
def test_where_a_process_cannot_be_told_from_its_number_its_count_decides(
    tmp_path, other, monkeypatch
):
    """As where /proc hides other users' processes."""
    monkeypatch.setattr(claim, "_started", lambda pid: None)
    with pytest.raises(ValueError, match=f"is in use by .*process {other.process.pid} on"):
        taken(tmp_path / "run")
    [file] = (tmp_path / "run" / "lock").iterdir()
    other.process.kill()
    other.process.wait()
    theirs, ours = (f'"pid": {pid}' for pid in (other.process.pid, os.getpid()))
    file.write_text(file.read_text().replace(theirs, ours))
    assert 1 <= taken(tmp_path / "run", patience=1.0) < 3


@pytest.mark.parametrize("error", [FileNotFoundError, FileExistsError])
def test_a_folder_that_another_removes_meanwhile_is_made_again(tmp_path, monkeypatch, error):
    make, faults = Path.mkdir, [error("gone, by one that has just ended")]

    def mkdir(self, *args, **how):
        if self.name == "lock" and faults:
            raise faults.pop()
        make(self, *args, **how)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert taken(tmp_path / "run") < 2
    assert not faults
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="run"):
        taken(tmp_path / "run")


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("a file")
    for folder in (tmp_path / "run", tmp_path / "run" / "within"):
        with pytest.raises(ValueError, match=f"^{folder}: .*is a file; name another folder$"):
            taken(folder)


@pytest.mark.seconds
def test_one_that_is_frozen_here_lives(tmp_path, other):
    other.process.send_signal(signal.SIGSTOP)
    with pytest.raises(ValueError, match="is in use by"):
        taken(tmp_path / "run", patience=0.1)


@pytest.mark.seconds
@pytest.mark.usefixtures("elsewhere", "quick")
def test_one_of_another_host_is_watched_and_refuses_while_it_beats(tmp_path, other, capsys):
    [file] = (tmp_path / "run" / "lock").iterdir()
    os.utime(file, (0, 0))  # hosts' clocks say nothing
    with pytest.raises(ValueError, match=f"is in use by .*process {other.process.pid} on"):
        taken(tmp_path / "run")
    assert "waiting up to 3 s to see whether it still runs" in capsys.readouterr().err
    assert other.asked() == "ours\n"


@pytest.mark.seconds
@pytest.mark.usefixtures("elsewhere", "quick")
def test_one_of_another_host_that_fell_silent_is_replaced_and_stops_when_it_wakes(tmp_path, other):
    other.process.send_signal(signal.SIGSTOP)
    folder = tmp_path / "run"
    with held(folder, beat=BEAT, patience=PATIENCE) as ours:
        other.process.send_signal(signal.SIGCONT)
        said = other.asked()
        assert "its claim was removed, and the folder now belongs to `" in said
        assert f"(process {os.getpid()} on " in said
        time.sleep(3 * BEAT)
        ours.check()
        assert other.ended() == 0
        ours.check()
        assert list((folder / "lock").iterdir()) == [ours.file]


@pytest.mark.seconds
@pytest.mark.usefixtures("quick", "other")
def test_the_copy_of_a_folder_in_use_is_free(tmp_path):
    """Whose claim is of a living process, but does not grow."""
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert 1 <= taken(tmp_path / "copy", patience=1.0) < 3
    with pytest.raises(ValueError, match="is in use by"):
        taken(tmp_path / "run")


@pytest.mark.seconds
@pytest.mark.usefixtures("quick")
def test_a_claim_that_was_only_half_written_is_waited_for_and_removed(tmp_path):
    lock = tmp_path / "lock"
    lock.mkdir()
    (lock / "0.json").write_text('{"host": "a')
    assert 1 <= taken(tmp_path, patience=1.0) < 3


@pytest.mark.usefixtures("quick")
def test_of_many_at_once_one_gets_it(tmp_path):
    for _ in range(5):
        claims = [FolderClaim(tmp_path, BEAT, PATIENCE) for _ in range(8)]
        got, faults, ready = [], [], threading.Barrier(len(claims))

        def take(one, got=got, faults=faults, ready=ready):
            ready.wait()
            try:
                one.take()
                got.append(one)
            except ValueError as error:
                faults.append(str(error))

        threads = [threading.Thread(target=take, args=(one,)) for one in claims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = got
        assert len(faults) == 7
        assert all("is in use by" in fault for fault in faults), faults
        winner.check()
        winner.release()


def test_what_was_made_stays_and_an_error_releases(tmp_path):
    def fails():
        with held(tmp_path / "run"):
            (tmp_path / "run" / "log.txt").write_text("made")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fails()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["log.txt"]


def test_the_first_process_claims_for_all_and_all_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "everyones", lambda own: ["run: is in use by another", own])
    monkeypatch.setattr(run_folder.jax, "process_index", lambda: 1)
    with pytest.raises(ValueError, match="run: is in use by another"):
        taken(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_commands_are_refused_before_they_load_anything(tmp_path, monkeypatch, capsys):
    def loads(*_, **__):
        raise AssertionError("it looked at its data or its model")

    for module, name in (
        (train, "train"),
        (evaluate, "evaluate"),
        (select_resolution, "select_resolution"),
    ):
        monkeypatch.setattr(module, name, loads)
    monkeypatch.setattr(train, "check", lambda *_, **__: None)
    monkeypatch.setattr(train, "check_devices", lambda *_, **__: None)
    monkeypatch.setenv("MICRO", str(tmp_path))
    out = str(tmp_path / "out")
    with held(tmp_path / "out"):
        for command, words in (
            (train, ["--config", micro.__file__, "--run", out]),
            (evaluate, [out, "--model", "m", "--data", "d"]),
            (evaluate, [out, "--rescore"]),
            (select_resolution, ["d", out, "--strategy", "hard"]),
        ):
            assert command.main(words) == 1
            assert f"error: {out}: is in use by `" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "wanted"),
    [("lfpc train", "lfpc train --run 'a b'"), ("launch/train.py", "train.py --run 'a b'")],
)
def test_a_claim_names_the_command_as_it_was_typed(program, wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program, "--run", "a b"])
    assert Owner.this_process(tmp_path).command == wanted
