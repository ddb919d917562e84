"""A whole run planned, small enough for a CPU."""

import json
from dataclasses import replace

import pytest
import small

from lfpc_jax.cli import plan
from lfpc_jax.cli.overrides import load_config
from lfpc_jax.cli.plan_search import proposals
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.model.config import published
from lfpc_jax.plan import slices
from lfpc_jax.plan.guess import update_bytes
from lfpc_jax.plan.roofline import estimate
from lfpc_jax.plan.work import Load, Workload, micro_batches
from lfpc_jax.shapes import Buckets, RolloutShapes, TrainShapes

PROGRAMS = ["encode", "prefill", "place", "extend", "decode", "reshard", "score", "update"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    args = ["--config", str(small.config_file(folder)), "--topology", "cpu:2", "--program"]
    file = folder / "plan.json"
    assert plan.main([*args, *PROGRAMS, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    return found["runs"], {row["program"]: row for row in found["programs"]}


def test_every_program_of_the_run_is_there(planned):
    (run,), rows = planned
    assert list(rows) == PROGRAMS
    assert all(row["fits"] for row in rows.values())
    assert run["chips"] == 2
    for row in rows.values():
        assert row["bytes_per_chip"] == sum(row["kinds"].values()) + row["beside"]


def test_memory_by_kind_is_what_one_counts(planned):
    """Float32 on a CPU: moments are twice the parameters, split in two; the rollouts hold them
    whole."""
    rows = {name: row["kinds"] for name, row in planned[1].items()}
    parameters = rows["update"]["parameters"]
    assert rows["update"]["moments"] == pytest.approx(2 * parameters, rel=1e-3)
    whole = rows["encode"]["parameters"] + rows["decode"]["parameters"]
    assert whole == pytest.approx(2 * parameters, rel=0.01)
    layers, slots, capacity, heads, wide = 3, 16, 256, 2, 16
    assert rows["decode"]["cache"] == pytest.approx(
        2 * layers * slots * capacity * heads * wide * 4 / 2, rel=0.02
    )
    assert planned[1]["decode"]["beside"] == pytest.approx(3 * parameters, rel=1e-3)


def test_the_state_is_donated(planned):
    kinds, update = planned[1]["update"]["kinds"], planned[1]["update"]["compiled"]
    assert update["aliased_bytes"] == pytest.approx(
        kinds["parameters"] + kinds["moments"], rel=0.01
    )


def test_what_does_not_fit_is_refused_with_the_settings_to_change(tmp_path, capsys, monkeypatch):
    chip = slices.Chip(hbm_bytes=2**20)
    found = slices.find("cpu:2")
    monkeypatch.setattr(slices, "find", lambda _: replace(found, chip=chip))
    monkeypatch.setattr("lfpc_jax.cli.plan_config._update", lambda *_: iter(()))
    assert plan.main(["--config", str(small.config_file(tmp_path)), "--topology", "cpu:2"]) == 1
    error = capsys.readouterr().err
    assert "decode does not fit" in error
    assert "of 0.00): lower rollout.slots" in error


def test_an_unknown_flag_without_a_config_is_refused(capsys):
    assert plan.main(["--topology", "cpu:2", "--modle", "3b"]) == 1
    assert "--modle" in capsys.readouterr().err


def test_the_longest_of_three_times_bounds_a_call():
    chip = slices.Chip(1, flops=100.0, hbm=10.0, wire=1.0)
    assert estimate(Load(200.0, 10.0, 1.0), 1.5, chip).bound == "compute"
    assert estimate(Load(200.0, 30.0, 1.0), 1.5, chip) == estimate(Load(0.0, 30.0, 1.0), 0.0, chip)
    assert estimate(Load(200.0, 30.0, 1.0), 4.0, chip).seconds == 4.0
    assert estimate(Load(200.0, 30.0, 1.0), 4.0, slices.Chip(1)) is None


def test_micro_batches_are_as_many_as_tokens_or_windows_ask_for():
    """Episodes of 1,424 + 400 + 1,088 tokens: two in a row of 8,192. Pictures of 72 windows: 144
    hold the shown one and one crop."""
    rollout, load = RolloutShapes(capacity=8192), Workload(sampled=400, crops=1)
    assert load.tokens(rollout) == 2912

    def count(rows, windows):
        shapes = TrainShapes(8192, rows, Buckets((windows,)))
        return micro_batches(shapes, rollout, load, episodes=512, shards=32)

    assert (count(1, 144), count(1, 216), count(1, 1000), count(2, 288)) == (16, 8, 8, 16 / 3)


@pytest.mark.parametrize(
    ("shards", "tensor", "windows", "compiler"),
    [(32, 1, 144, 7.89), (32, 1, 625, 11.63), (16, 2, 625, 9.48), (256, 1, 144, 6.35)],
)
def test_the_guess_of_the_7b_update_is_near_the_compiler_s(shards, tensor, windows, compiler):
    """A row of 8,192 tokens; temporaries in GiB as compiled on 2026-11-21 (docs/scaling.md)."""
    cfg, shapes = published("7b", remat="full"), TrainShapes(8192, 1, Buckets((windows,)))
    guess = update_bytes(cfg, shapes, windows, shards=shards, tensor=tensor) / 2**30
    assert 0.98 * compiler < guess < 1.2 * compiler


def test_search_proposes_what_a_slice_can_hold():
    """16 GB chips cannot hold a whole copy of the 7B beside the trainer's state; 95 GB can."""
    config, load = load_config("stage1.py", CONFIGS), Workload()
    flags, proposed = next(proposals(config, slices.find("v5e:4x8"), load))
    assert proposed.rollout.tensor > 1
    assert proposed.update.rows < 4
    assert "--rollout.slots" in flags
    _, proposed = next(proposals(config, slices.find("v5p:2x2x4"), load))
    assert proposed.rollout.tensor == 1
    assert proposed.update.rows > 1
