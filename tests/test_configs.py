"""Every shipped config loads, holds together, and has the paper's values where it gives any."""

import json
import re
from dataclasses import replace

import pytest

from lfpc_jax.cli.overrides import load_config
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.config import check, described, updates_of

NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.py"))
ARMS = [name for name in NAMES if not name.startswith("micro/") and not name.endswith("_3b.py")]
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
