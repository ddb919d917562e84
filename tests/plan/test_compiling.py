"""Compilation that ends when memory is assigned has the whole compilation's figures."""

import json

import pytest

from lfpc_jax.cli import plan
from support import small_plan

pytestmark = pytest.mark.compiles


@pytest.fixture
def figures(tmp_path):
    config = str(small_plan.config_file(tmp_path))

    def run(*flags):
        file = tmp_path / "plan.json"
        args = ["--config", config, "--topology", "v5e:2x2", "--json", str(file), *flags]
        code = plan.main(args)
        return code, json.loads(file.read_text())["programs"]

    return run


@pytest.mark.long
def test_memory_and_wire_are_those_of_the_whole_compilation(figures):
    large = ("--program", "begin", "--rollout.slots", "256", "--rollout.capacity", "8192")
    code, (whole,) = figures(*large)
    quick_code, (quick,) = figures(*large, "--quick")
    assert (code, quick_code) == (0, 0)
    assert quick["bytes_per_chip"] == pytest.approx(whole["bytes_per_chip"], rel=0.01)
    for name in ("argument_bytes", "aliased_bytes"):
        assert quick["compiled"][name] == pytest.approx(whole["compiled"][name], rel=0.01), name
    assert quick["compiled"]["sent"] == whole["compiled"]["sent"]


@pytest.mark.long
def test_a_program_that_does_not_fit_is_refused_as_by_the_whole_compilation(figures, capsys):
    """4 TiB of cache."""
    code, (row,) = figures("--program", "begin", "--quick", "--rollout.slots", str(2**24))
    assert (code, row["fits"]) == (1, False)
    assert "lower rollout.slots" in capsys.readouterr().err
