"""A run with a target model, planned on a CPU."""

import json

import pytest

from lfpc_jax.cli import plan
from lfpc_jax.plan.episodes import PlannedEpisode
from lfpc_jax.plan.phases import phases
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.plan.search import proposals
from lfpc_jax.plan.slices import find
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from support import small_plan

pytestmark = pytest.mark.compiles

ENGINE = ["encode", "prefill", "begin", "extend", "decode"]
EPISODE = PlannedEpisode(sampled=8, crops=0)


def run_of(folder, *flags, target=True, slice_="cpu:2"):
    config = load_config(str(small_plan.config_file(folder, target=target)), folder)
    return PlannedRun.of(override(config, flags), find(slice_))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The same run without a target and with one."""
    folder = tmp_path_factory.mktemp("plan")
    return [run_of(folder, target=target) for target in (False, True)]


def test_the_target_s_programs_are_compiled_and_its_seconds_counted_apart(tmp_path):
    config, file = str(small_plan.config_file(tmp_path, target=True)), tmp_path / "plan.json"
    args = ["--config", config, "--topology", "cpu:2", "--json", str(file)]
    assert plan.main([*args, "--program", "target extend"]) == 0
    found = json.loads(file.read_text())
    (run,), (row,) = found["runs"], found["programs"]
    assert list(run["seconds_a_step"]) == ["rollout", "target", "update"]
    assert (row["program"], row["phase"], row["fits"]) == ("target extend", "target", True)
    cache = row["kinds"]["prompts"] + row["kinds"]["own"]
    assert cache == pytest.approx(row["compiled"]["aliased_bytes"], rel=0.01)
    assert row["bytes_per_chip"] == sum(row["kinds"].values()) + row["beside"]


def test_its_programs_come_between_rollouts_and_updates(two):
    names = [program.name for each in phases(two[1]) for program in each.programs]
    assert names[:11] == [*ENGINE, *(f"target {name}" for name in ENGINE), "reshard"]
    assert not [program for each in phases(two[0]) for program in each.programs
                if "target" in program.name]  # fmt: skip


def test_its_weights_are_beside_every_other_phase(two):
    """The target is the run's own model, which rollouts hold whole, in float32. While it is asked,
    a device holds the trainer's state and the rollouts' weights."""
    without, beside = ({each.name: each.beside for each in phases(run)} for run in two)
    whole = two[0].rollout_bytes
    assert two[0].target_bytes == 0
    assert two[1].target_bytes == whole > 0
    assert beside.pop("target") == two[1].state_bytes + whole
    assert beside == {name: held + whole for name, held in without.items()}


def test_its_cache_holds_its_slots(two):
    """16 slots on two devices of crop, what follows and an answer, 64 + 192 + 8 positions, and as
    many prompts of image and text, 64 + 64, of keys and values of two heads of 16 in three
    layers."""
    held = {program.name: program.held for program in two[1].target.programs()}["target decode"]
    token = 2 * 3 * 2 * 16 * 4
    assert held["prompts"] == pytest.approx(16 / 2 * (64 + 64) * token, rel=0.02)
    assert held["own"] == pytest.approx(16 / 2 * (64 + 192 + 8) * token, rel=0.02)


def test_how_often_a_step_asks_it(two, tmp_path):
    """8 prompts of 4 boxes each, 16 rows at a time on both devices; 8 tokens an answer. Where only
    likelihood is rewarded, validations alone ask for answers."""
    loads = two[1].loads()
    assert loads["target extend"].calls == 8 * 4 / 16
    assert loads["target decode"].calls == 8 * 4 * 8 / 16
    assert loads["target prefill"].calls == pytest.approx(8 / 16)
    flags = ["--rewards.accuracy", "0", "--rewards.likelihood", "1"]
    likely = run_of(tmp_path, *flags)
    assert all(likely.loads()[f"target {name}"].calls == 0 for name in ENGINE)
    assert "target decode" in [program.name for program in likely.target.programs()]


def test_likelihoods_are_planned_as_they_are_scored(tmp_path):
    """A question of 4 boxes: an image of 64 tokens and 64 of text once a row, then 64 + 192 + 8 a
    box. Each of two devices has a row of two boxes, 128 + 2 x 264 tokens in steps of 64, which are
    704, and an image with two crops. So 8 questions take 8 calls."""
    config, file = str(small_plan.config_file(tmp_path, target=True)), tmp_path / "plan.json"
    args = ["--config", config, "--topology", "cpu:2", "--json", str(file)]
    args += ["--rewards.accuracy", "0", "--rewards.likelihood", "1"]
    names = ["target score pictures", "target score"]
    assert plan.main([*args, "--program", *names]) == 0
    pictures, rows = json.loads(file.read_text())["programs"]
    assert [pictures["program"], rows["program"]] == names
    run = run_of(tmp_path)
    windows, tokens, places = 3 * 8, 704, 2 * 8  # a span of 8 windows for each picture
    embeddings = 3 * 8 * 16 * 64 * 4
    for row in (pictures, rows):
        assert (row["phase"], row["fits"], row["load"]["calls"]) == ("target", True, 8)
        held = row["beside"] + row["kinds"]["parameters"] - run.target_bytes
        assert held == run.state_bytes + run.rollout_bytes + embeddings
    assert pictures["kinds"]["inputs"] == windows * (64 * 588 + 16)
    assert rows["kinds"]["inputs"] == tokens * (7 + 64) * 4 + places * 4 * 4


def test_a_target_behind_a_server_takes_nothing(tmp_path):
    flags = ["--target.path", "", "--target.url", "http://h/v1", "--target.model", "m"]
    run = run_of(tmp_path, *flags)
    assert run.target is None
    assert run.target_bytes == 0


def test_a_target_that_is_not_here_is_planned_by_its_name(tmp_path):
    run = run_of(tmp_path, "--target.path", "Qwen2.5-VL-7B-Instruct")
    assert run.target.cfg.text.layers == 28
    with pytest.raises(ValueError, match=r"target\.path my-model is not here.*--target\.path Qwen"):
        run_of(tmp_path, "--target.path", "my-model")


@pytest.mark.slow
def test_a_search_leaves_room_for_the_target(tmp_path):
    """A 7B target of 15.4 GiB is split over the chips of a host of v5e."""
    config = load_config(str(small_plan.config_file(tmp_path, target=True)), tmp_path)
    flags = ["--model.path", "Qwen2.5-VL-3B-Instruct", "--rollout.slots", "64"]
    config = override(config, [*flags, "--target.path", "Qwen2.5-VL-7B-Instruct"])
    where = find("v5e:4x4")
    _, proposed = next(proposals(config, where, EPISODE))
    assert proposed.rollout.tensor == 4
    held = PlannedRun.of(proposed, where).target_bytes / 2**30
    assert held == pytest.approx(15.4 / 4, rel=0.02)
