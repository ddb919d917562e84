"""A folder appears whole or not at all."""

import fcntl
import os

import pytest

from lfpc_jax.checkpoint import staging


def test_the_folder_appears_at_the_end(tmp_path):
    with staging.staged(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), staging.staged(tmp_path / "out") as folder:  # noqa: PT012
        (folder / "file").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept_unless_asked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(ValueError, match="out: exists already"), staging.staged(tmp_path / "out"):
        pass
    with pytest.raises(ZeroDivisionError), staging.staged(tmp_path / "out", overwrite=True):
        _ = 1 / 0
    assert os.listdir(tmp_path / "out") == ["old"]
    with staging.staged(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").touch()
    assert os.listdir(tmp_path / "out") == ["new"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_is_never_replaced(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match="out: is a file"):
        staging.check_free(tmp_path / "out", overwrite=True)


def test_what_a_dead_run_left_is_removed(tmp_path):
    stale = tmp_path / ".out.partial"
    (stale / "params").mkdir(parents=True)
    (stale / "model.safetensors").touch()
    with staging.staged(tmp_path / "out") as folder:
        (folder / "file").touch()
    assert os.listdir(tmp_path / "out") == ["file"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_living_run_is_not_disturbed(tmp_path):
    living = tmp_path / ".out.partial"
    living.mkdir()
    (living / "half").touch()
    lock = os.open(living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another run"), staging.staged(tmp_path / "out"):
        pass
    assert os.listdir(living) == ["half"]
    os.close(lock)
