"""A run that stopped before its first checkpoint is no model, and commands say so."""

import pytest

from lfpc_jax.cli import convert
from lfpc_jax.run.models import asking_of, assets_of, load_model


@pytest.fixture
def stopped(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"steps": 4}')
    (run / "origin.json").write_text("{}")
    (run / "log.txt").write_text("step 1: none of 4 prompts could be shown\n")
    return run


@pytest.mark.parametrize("use", [load_model, assets_of, asking_of])
def test_it_is_named_with_what_to_do(stopped, use):
    with pytest.raises(ValueError, match=r"has no checkpoint yet; .*log\.txt says why"):
        use(stopped)


def test_an_export_says_the_same(stopped, tmp_path, capsys):
    assert convert.main(["to-hf", str(stopped), str(tmp_path / "out")]) == 1
    assert "run has no checkpoint yet" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
