"""Every shipped config loads, holds together, and has the paper's values where it gives any."""

import json
import re
from dataclasses import replace

import pytest

from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.run.config import TrainConfig, check, described, updates_of
from lfpc_jax.run.overrides import load_config

NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.py"))
AUTHORS = [name for name in NAMES if name.startswith("authors_")]
ARMS = [
    name
    for name in NAMES
    if not name.startswith(("micro/", "authors_")) and not name.endswith("_3b.py")
]
TABLE_10 = ["ablations/conditional_iou.py", "ablations/no_threshold.py", "ablations/no_iou.py"]
STAGE_2 = ["stage2.py", *TABLE_10]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_loads_and_holds_together(name):
    config = load_config(name, CONFIGS)
    check(config)
    check(config, processes=4)
    assert json.loads(json.dumps(described(config)))["steps"] == config.steps
    text = (CONFIGS / name).read_text()
    assert f"--config {name}" in text, "its docstring gives the command"
    assert "Hardware:" in text
    assert re.search(r"\bExpect\b", text)


@pytest.mark.parametrize("name", ARMS)
def test_the_papers_values(name):
    """Section 5 of the paper's settings, as a table."""
    config = load_config(name, CONFIGS)
    assert config.optimizer.learning_rate == (5e-7 if name in STAGE_2 else 1e-6)
    assert (config.rollout.prompts, config.rollout.rollouts) == (256, 16)
    assert config.update.mini_batch == 32
    assert config.update.rows == 2  # sequences a device in a micro-batch
    assert (config.rollout.turn_tokens, config.rollout.max_turns) == (2048, 5)
    assert config.rollout.episode_tokens == 0  # the context's limit alone
    assert (config.update.objective.kl, config.update.objective.entropy) == (0, 0)
    assert config.steps == 80
    assert updates_of(config) == 640
    weights = (config.rewards.accuracy, config.rewards.format, config.rewards.tool)
    assert weights == (0.8, 0.2, 1.2)
    grounded = name in (*STAGE_2, "mixed.py") and name != "ablations/no_iou.py"
    assert config.rewards.grounding == float(grounded)


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_likely_values(name):
    """verl's, as DeepEyes' `ppo_trainer.yaml` has them, where the paper says nothing; all that it
    does say, as the arm of the same name."""
    ours, theirs = load_config(name.removeprefix("authors_"), CONFIGS), load_config(name, CONFIGS)
    assert theirs.update.objective == replace(ours.update.objective, dual_clip=3.0)
    assert theirs.update.deviation == "unbiased"
    assert (theirs.update.aggregate, theirs.update.micro_batch_mean) == ("token", 2)
    assert theirs.optimizer == replace(ours.optimizer, weight_decay=0.01)
    assert (theirs.optimizer.schedule, theirs.optimizer.warmup) == ("constant", 0)
    assert theirs.optimizer.clip_norm == 1
    sampling = theirs.rules.sampling
    assert (sampling.temperature, sampling.truncates) == (1, False)
    assert theirs.validation_sampling.temperature == 0
    assert theirs.rollout.image_tokens == (16384 if "baseline" in name else 1024)
    same = replace(ours.update, objective=theirs.update.objective, deviation="unbiased",
                   micro_batch_mean=2, rows=1)  # fmt: skip
    assert theirs.update == same
    r = theirs.rollout
    whole = r.image_tokens + r.max_turns * r.turn_tokens + (r.max_turns - 1) * r.crop_tokens
    assert 400 < r.capacity - whole
    assert replace(ours.rollout, image_tokens=r.image_tokens, capacity=r.capacity,
                   slots=r.slots) == r  # fmt: skip
    rest = {"update", "optimizer", "rollout", "model", "validation_temperature"}
    named = [{k: v for k, v in described(c).items() if k not in rest} for c in (ours, theirs)]
    assert named[0] == named[1]
    model = "runs/authors_stage1" if "stage2" in name else "Qwen2.5-VL-7B-Instruct"
    assert theirs.model == replace(ours.model, path=model)


def test_the_three_arms_of_two_stages_and_a_baseline_have_the_authors_values():
    assert AUTHORS == ["authors_baseline.py", "authors_stage1.py", "authors_stage2.py"]


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_has_a_twin_for_3b_that_differs_in_its_model_alone(name):
    config = load_config(name, CONFIGS)
    twin = load_config(name.replace(".py", "_3b.py"), CONFIGS)
    begins = "runs/stage1{}" if name in STAGE_2 else "Qwen2.5-VL-{}-Instruct"
    small, large = ("_3b", "") if name in STAGE_2 else ("3B", "7B")
    assert config.model.path == begins.format(large)
    assert twin == replace(config, model=replace(config.model, path=begins.format(small)))


def test_the_designs_of_table_10_differ_in_their_boxes_alone():
    conditional, no_threshold, no_iou = (load_config(name, CONFIGS) for name in TABLE_10)
    assert (conditional.rewards.boxes.tau, conditional.rewards.boxes.w) == (0.9, 1)
    assert (no_threshold.rewards.boxes.tau, no_threshold.rewards.boxes.w) == (None, 1)
    assert no_iou.rewards.grounding == 0
    rest = [described(config) | {"rewards": None} for config in (conditional, no_threshold, no_iou)]
    assert all(one == rest[0] for one in rest)


@pytest.mark.parametrize("second", ["stage2", "stage2_3b"])
def test_stage_2_goes_on_from_the_folder_of_stage_1(second):
    first = second.replace("2", "1", 1)
    assert f"{first}.py" in NAMES
    assert load_config(f"{second}.py", CONFIGS).model.path == f"runs/{first}"


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"config 'stage3.py'.*'ablations/no_iou.py'"):
        load_config("stage3.py", CONFIGS)


def test_the_page_on_the_paper_names_settings_that_there_are():
    """And with the defaults that it says."""
    page = (CONFIGS.parent / "docs/paper.md").read_text()
    names = set(re.findall(r"`((?:rollout|update|optimizer|model)\.[a-z_0-9.]+)`", page))
    assert len(names) >= 25
    for name in names:
        value = TrainConfig()
        for part in name.split("."):
            assert hasattr(value, part), name
            value = getattr(value, part)
    for name in AUTHORS:
        assert name in page
    u, o = TrainConfig().update, TrainConfig().optimizer
    assert (u.objective.dual_clip, u.deviation, u.micro_batch_mean) == (None, "population", 0)
    assert (o.weight_decay, o.schedule, o.clip_norm, TrainConfig().validation_temperature) == (
        0, "constant", 1, None,
    )  # fmt: skip
