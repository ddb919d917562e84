"""A run's checkpoints: which are kept, and which one a name means."""

import logging

import numpy as np
import pytest

from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.training import Checkpoints
from lfpc_jax.cli.run_folder import RunFolder, checkpoint_of, run_of

SCORES = {1: 0.5, 2: 0.9, 3: None, 4: 0.9, 5: 0.2, 6: None}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two of the newest kept, and two of the best."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    keeper = Checkpoints(run.checkpoints, keep=2, keep_best=2)
    for step, score in SCORES.items():
        facts = {} if score is None else {"score": score}
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
    with pytest.raises(ValueError, match=f"no whole checkpoint that is '{name}'; of 00000002, "):
        checkpoint_of(path, run)


def test_a_damaged_best_gives_way_to_the_next(run, caplog):
    item = run.checkpoints / "00000004" / "facts.json"
    whole = item.read_text()
    item.write_text(whole + " ")
    try:
        with caplog.at_level(logging.WARNING):
            assert checkpoint_of(run.checkpoints / "best", run).step == 2
        assert "passed over" in caplog.text
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
