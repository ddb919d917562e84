"""A run with a target model, planned on a CPU."""

import json

import pytest

from lfpc_jax.cli import plan
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.slices import find
from lfpc_jax.plan.work import PlannedEpisode
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from support import small_plan

pytestmark = pytest.mark.compiles

ENGINE = ["encode", "prefill", "place", "extend", "decode"]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The programs of the same run without a target and with one."""
    folder = tmp_path_factory.mktemp("plan")
    names = ["decode", *(f"target {name}" for name in ENGINE), "reshard", "score", "update"]
    args = ["--topology", "cpu:2", "--json", str(folder / "plan.json"), "--program"]
    found = []
    for config in (small_plan.config_file(folder), small_plan.config_file(folder, target=True)):
        assert plan.main(["--config", str(config), *args, *names]) == 0
        (run,), rows = json.loads((folder / "plan.json").read_text()).values()
        found.append((run, {row["program"]: row for row in rows}))
    return found


def test_the_target_s_programs_are_there_and_counted_apart(planned):
    (before, without), (run, rows) = planned
    assert set(rows) - set(without) == {f"target {name}" for name in ENGINE}
    assert {row["phase"] for name, row in rows.items() if "target" in name} == {"target"}
    assert all(row["fits"] for row in rows.values())
    assert "target" not in before["seconds_a_step"]
    assert list(run["seconds_a_step"]) == ["rollout", "target", "update"]


def test_its_weights_are_beside_every_other_phase(planned):
    """The target is the run's own model, which rollouts hold whole, in float32."""
    (_, without), (_, rows) = planned
    whole = rows["target encode"]["kinds"]["parameters"]
    whole += rows["target decode"]["kinds"]["parameters"]
    for name in ("decode", "reshard", "score", "update"):
        assert rows[name]["beside"] - without[name]["beside"] == pytest.approx(whole, rel=0.01)
    state = without["decode"]["beside"]
    for name in ENGINE:
        assert rows[f"target {name}"]["beside"] == pytest.approx(state + whole, rel=0.01)


def test_its_cache_holds_its_slots(planned):
    """16 slots on two devices of image, prompt, crop, what follows and an answer: 64 + 64 + 64 +
    192 + 8 positions of keys and values of two heads of 16 in three layers."""
    rows = planned[1][1]
    assert rows["target decode"]["kinds"]["cache"] == pytest.approx(
        2 * 3 * (16 / 2) * (64 + 64 + 64 + 192 + 8) * 2 * 16 * 4, rel=0.02
    )


def test_how_often_a_step_asks_it(planned):
    """8 prompts of 4 boxes each, on two devices side by side, 8 rows at a time each; 8 tokens an
    answer, 16 at once."""
    rows = planned[1][1]
    calls = {name: rows[f"target {name}"]["load"]["calls"] for name in ENGINE}
    assert calls["extend"] == 8 * 4 / 16
    assert calls["decode"] == 8 * 4 * 8 / 16
    assert calls["prefill"] == pytest.approx(8 / 16)


def test_a_step_that_rewards_only_likelihood_asks_for_no_answers(tmp_path):
    """Validations do, so the programs are planned."""
    config = load_config(str(small_plan.config_file(tmp_path, target=True)), tmp_path)
    flags = ["--rewards.accuracy", "0", "--rewards.likelihood", "1"]
    run = PlannedRun.of(override(config, flags), find("cpu:2"))
    loads = run.loads(PlannedEpisode(sampled=8, crops=0))
    assert all(loads[f"target {name}"].calls == 0 for name in ENGINE)
    assert "target decode" in [program.name for program in run.target.programs()]


def test_a_target_behind_a_server_takes_nothing(tmp_path):
    config = load_config(str(small_plan.config_file(tmp_path, target=True)), tmp_path)
    flags = ["--target.path", "", "--target.url", "http://h/v1", "--target.model", "m"]
    run = PlannedRun.of(override(config, flags), find("cpu:2"))
    assert run.target is None
    assert run.target_bytes == 0


def test_a_search_leaves_room_for_the_target(tmp_path):
    """A 7B target of 15.4 GiB is split over the chips of a host of v5e, a 3B crop network not."""
    config = load_config(str(small_plan.config_file(tmp_path, target=True)), tmp_path)
    flags = ["--model.path", "Qwen2.5-VL-3B-Instruct", "--rollout.slots", "64"]
    config = override(config, [*flags, "--target.path", "Qwen2.5-VL-7B-Instruct"])
    where, episode = find("v5e:4x4"), PlannedEpisode(sampled=8, crops=0)
    _, proposed = next(proposals(config, where, episode))
    assert proposed.rollout.tensor == 4
