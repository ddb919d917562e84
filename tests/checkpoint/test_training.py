"""A run's checkpoints: which are kept, and which one a name means."""

import logging

import numpy as np
import orbax.checkpoint as ocp
import pytest

from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.run.folder import RunFolder, checkpoint_of, run_of

ACCURACIES = {1: 0.5, 2: 0.9, 3: None, 4: 0.9, 5: 0.2, 6: None}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two of the newest kept, and two of the best. The early ones call their accuracy `score`, as
    all did once."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    keeper = Checkpoints(run.checkpoints, keep=2, keep_best=2)
    for step, accuracy in ACCURACIES.items():
        facts = {} if accuracy is None else {"score" if step < 4 else "accuracy": accuracy}
        keeper.save(step, {"trained": {"w": np.full(3, float(step))}}, facts)
    keeper.close()
    run.settings.write_text("{}")
    return run


def test_the_newest_and_the_best_stay(run):
    kept = sorted(path.name for path in run.checkpoints.iterdir())
    assert kept == ["00000002", "00000004", "00000005", "00000006"]


@pytest.mark.parametrize(
    ("name", "step"),
    [("", 6), ("checkpoints/newest", 6), ("checkpoints/best", 4), ("checkpoints/00000005", 5),
     ("checkpoints/2", 2)],
)  # fmt: skip
def test_a_path_names_a_checkpoint(run, name, step):
    path = run.path / name
    found = run_of(path)
    assert found == run
    saved = checkpoint_of(path, found)
    assert saved.step == step
    restored = training.restore(saved, "trained", {"w": np.zeros(3)})
    assert restored["w"].tolist() == [step] * 3


@pytest.mark.parametrize("name", ["3", "worst", "x/y"])
def test_what_names_none_is_refused(run, name):
    path = run.checkpoints / name
    if "/" in name:
        assert run_of(path) is None
        return
    with pytest.raises(ValueError, match=f"no complete checkpoint '{name}'; of 00000002, "):
        checkpoint_of(path, run)


def test_a_damaged_best_gives_way_to_the_next(run, caplog):
    item = run.checkpoints / "00000004" / "facts.json"
    whole = item.read_text()
    item.write_text(whole + " ")
    try:
        with caplog.at_level(logging.WARNING):
            assert checkpoint_of(run.checkpoints / "best", run).step == 2
        assert "skipped" in caplog.text
        with pytest.raises(ValueError, match="'4'"):
            checkpoint_of(run.checkpoints / "4", run)
    finally:
        item.write_text(whole)


def test_a_folder_without_checkpoints_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert run_of(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="of none choose"):
        checkpoint_of(tmp_path, run_of(tmp_path))


def saved(folder, accuracies, **keeps):
    """Checkpoints of these steps, saved by a process of its own, so to say."""
    keeper = Checkpoints(folder, **keeps)
    for step, accuracy in accuracies.items():
        keeper.save(step, {"trained": {"w": np.full(3, float(step))}}, {"accuracy": accuracy})
    keeper.close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def cut_short(path):
    (path / "manifest.json").unlink()


def flip_a_bit(path):
    """In the largest file."""
    file = max((file for file in path.rglob("*") if file.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_facts(path):
    (path / "facts.json").write_text('{"accuracy": 0.')


def cut_manifest(path):
    (path / "manifest.json").write_text('{"facts.json": {"byt')


unusable = pytest.mark.parametrize("damage", [cut_short, flip_a_bit, cut_facts, cut_manifest])


@unusable
def test_an_unusable_newer_one_takes_no_whole_ones_place(tmp_path, damage):
    """With one kept, 47 was removed as the older of two, and 50 was no checkpoint."""
    saved(tmp_path, {40: 0.5, 50: 0.5}, keep=2)
    damage(tmp_path / "00000050")
    assert training.latest(tmp_path).step == 40
    saved(tmp_path, {47: 0.5}, keep=1)
    assert training.latest(tmp_path).step == 47
    assert names(tmp_path) == ["00000047"]


@unusable
def test_an_unusable_one_between_takes_no_whole_ones_place(tmp_path, damage):
    saved(tmp_path, {40: 0.5, 45: 0.5}, keep=2)
    damage(tmp_path / "00000045")
    saved(tmp_path, {50: 0.5}, keep=2)
    assert names(tmp_path) == ["00000040", "00000050"]


@unusable
def test_an_unusable_best_one_takes_no_whole_ones_place(tmp_path, damage):
    saved(tmp_path, {10: 0.8, 20: 0.9, 30: 0.1}, keep=3)
    damage(tmp_path / "00000020")
    saved(tmp_path, {40: 0.2}, keep=1, keep_best=1)
    assert names(tmp_path) == ["00000010", "00000040"]
    assert training.best(tmp_path).step == 10


@unusable
def test_an_unusable_one_is_never_the_best(tmp_path, damage, caplog):
    saved(tmp_path, {10: 0.8, 20: 0.9}, keep=2)
    damage(tmp_path / "00000020")
    with caplog.at_level(logging.WARNING):
        assert training.best(tmp_path).step == 10
    [warning] = caplog.messages
    assert str(tmp_path / "00000020") in warning
    assert "skipped" in warning


def test_what_is_unusable_stays_until_a_later_save_is_whole(tmp_path, monkeypatch):
    saved(tmp_path, {40: 0.5}, keep=2)
    cut_short(tmp_path / "00000040")
    leftover = tmp_path / f"00000045{ocp.utils.TMP_DIR_SUFFIX}"  # of a save that was killed
    (leftover / "trained").mkdir(parents=True)

    def full_disk(folder):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training.manifest, "describe", full_disk)
        with pytest.raises(OSError, match="No space"):
            saved(tmp_path, {50: 0.5})
    assert names(tmp_path) == ["00000040", leftover.name, "00000050"]
    saved(tmp_path, {60: 0.5}, keep=2)
    assert names(tmp_path) == ["00000060"]


def test_a_step_saved_again_and_cut_short_is_no_longer_whole(tmp_path):
    keeper = Checkpoints(tmp_path, keep=1)
    item = {"trained": {"w": np.zeros(3)}}
    keeper.save(10, item, {})
    keeper.wait()
    keeper.save(10, item, {"not": object()})  # no JSON
    with pytest.raises(TypeError):
        keeper.wait()
    keeper.save(9, item, {})
    keeper.close()
    assert names(tmp_path) == ["00000009"]
