"""Commands that run side by side, and what follows one that fails."""

import sys

import pytest

from lfpc_jax.run import steps


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two commands that end only if they run together, then one that fails, then a last one."""
    launch = tmp_path / "launch"
    launch.mkdir()
    (launch / "meet.py").write_text(
        "import pathlib, sys, time\n"
        "mine, other = map(pathlib.Path, sys.argv[1:])\n"
        "mine.touch()\n"
        "print('waiting', flush=True)\n"
        "end = time.monotonic() + 60\n"
        "while not other.exists():\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.01)\n"
        "print('met')\n"
    )
    (launch / "fail.py").write_text("import sys; sys.exit(3)\n")
    (launch / "note.py").write_text("import pathlib, sys; pathlib.Path(sys.argv[1]).touch()\n")
    monkeypatch.setattr(steps, "program", lambda name: (sys.executable, str(launch / name)))
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    return [
        steps.Step("one", ("meet.py", here, there)),
        steps.Step("other", ("meet.py", there, here)),
        steps.Step("fails", ("fail.py",), after=("one", "other")),
        steps.Step("last", ("note.py", str(tmp_path / "noted")), after=("fails",)),
    ]


def test_two_run_at_once_and_each_line_has_its_command(pair, tmp_path, capfd):
    assert steps.run(pair[:2], tmp_path / "out", {}, jobs=2) == 0
    lines = capfd.readouterr().out.splitlines()
    for name in ("one", "other"):
        assert [line for line in lines if line.startswith(f"{name} | ")] == [
            f"{name} | waiting", f"{name} | met"
        ]  # fmt: skip


def test_nothing_begins_after_one_that_failed(pair, tmp_path, capfd):
    assert steps.run(pair, tmp_path / "out", {}, jobs=2) == 3
    assert not (tmp_path / "noted").exists()
    assert "error: `lfpc fail` exited with 3" in capfd.readouterr().err
    (tmp_path / "launch/fail.py").write_text("")
    assert steps.run(pair, tmp_path / "out", {}, jobs=2) == 0
    assert (tmp_path / "noted").exists()
    assert capfd.readouterr().out.count("done before") == 2


def test_what_is_no_folder_is_refused_before_anything_begins(pair, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="out: is no folder; choose another --out"):
        steps.check(pair, tmp_path / "out")
