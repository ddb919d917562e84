"""Every shipped config loads, holds together, and has the paper's values where it gives any."""

import json
from pathlib import Path

import pytest

from lfpc_jax.cli.overrides import load_config
from lfpc_jax.cli.train import CONFIGS
from lfpc_jax.config import check, described, updates_of

NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_loads_and_holds_together(name):
    config = load_config(name, CONFIGS)
    check(config)
    check(config, processes=4)
    assert json.loads(json.dumps(described(config)))["steps"] == config.steps
    text = (CONFIGS / name).read_text()
    assert f"--config {name}" in text, "its docstring gives the command"
    assert "Hardware:" in text


@pytest.mark.parametrize("name", ["stage1.py", "stage2.py", "baseline.py", "mixed.py"])
def test_the_papers_values(name):
    """Section 5 of the paper's settings, as a table."""
    config = load_config(name, CONFIGS)
    rate = 5e-7 if name == "stage2.py" else 1e-6
    assert config.optimizer.learning_rate == rate
    assert (config.rollout.prompts, config.rollout.rollouts) == (256, 16)
    assert config.update.mini_batch == 32
    assert config.update.rows == 2  # sequences a device in a micro-batch
    assert (config.rollout.max_tokens, config.rollout.max_turns) == (2048, 5)
    assert (config.update.objective.kl, config.update.objective.entropy) == (0, 0)
    assert config.steps == 80
    assert updates_of(config) == 640
    weights = (config.rewards.accuracy, config.rewards.format, config.rewards.tool)
    assert weights == (0.8, 0.2, 1.2)
    assert config.rewards.grounding == (1.0 if name in ("stage2.py", "mixed.py") else 0.0)


def test_the_designs_of_table_10_differ_in_their_boxes_alone():
    designs = {
        path.stem: load_config(str(path), CONFIGS)
        for path in Path(CONFIGS / "ablations").glob("*.py")
    }
    assert designs["conditional_iou"].rewards.boxes.tau == 0.9
    assert designs["conditional_iou"].rewards.boxes.w == 1
    assert designs["no_threshold"].rewards.boxes.tau is None
    assert designs["no_threshold"].rewards.boxes.w == 1
    assert designs["no_iou"].rewards.grounding == 0
    rest = [described(config) | {"rewards": None} for config in designs.values()]
    assert all(one == rest[0] for one in rest)


@pytest.mark.parametrize("second", ["stage2", "stage2_3b"])
def test_stage_2_goes_on_from_the_folder_of_stage_1(second):
    first = second.replace("2", "1", 1)
    assert f"{first}.py" in NAMES
    assert load_config(f"{second}.py", CONFIGS).model.path == f"runs/{first}"


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match=r"config 'stage3.py'.*'ablations/no_iou.py'"):
        load_config("stage3.py", CONFIGS)
