"""Runs that are resumed with what they were not trained with."""

import shutil
from dataclasses import replace

import pytest

from lfpc_jax.cli import train
from lfpc_jax.data import layout
from support.training_runs import CONFIG, FEW_SLOTS

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]


def test_another_config_in_the_same_run_is_refused(folder, whole, monkeypatch, capsys):
    monkeypatch.setenv("MICRO", str(folder))
    other = ["--optimizer.learning_rate", "3e-2"]
    assert train.main(["--config", CONFIG, "--run", str(whole), *FEW_SLOTS, *other]) == 1
    assert "begun with other settings of ['optimizer.learning_rate']" in capsys.readouterr().err


def test_data_that_changed_under_its_name_is_refused_on_resume(folder, whole, monkeypatch, capsys):
    """One answer of six, with the same names and number."""
    monkeypatch.setenv("MICRO", str(folder))
    shutil.move(folder / "set", folder / "kept")
    try:
        records = list(layout.read(folder / "kept"))
        changed = [*records[:-1], replace(records[-1], answer="another")]
        layout.write(folder / "set", changed)
        assert train.main(["--config", CONFIG, "--run", str(whole), *FEW_SLOTS]) == 1
    finally:
        shutil.rmtree(folder / "set")
        shutil.move(folder / "kept", folder / "set")
    said = capsys.readouterr().err
    assert f"00000003: was trained on other records of data.train {folder / 'set'}, under" in said
    assert "resume with these by --changed-data" in said
