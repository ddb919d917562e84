"""Every shipped config loads, holds together, and has the paper's values where it gives any."""

import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import lfpc_jax
from configs import common
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.grpo.remat import update_bytes
from lfpc_jax.plan import slices
from lfpc_jax.plan.run import PlannedRun
from lfpc_jax.run.config import TrainConfig, described, updates_of
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.config_files import CONFIGS, load_config, named_config
from lfpc_jax.run.overrides import override

NAMES = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob("*.py")
    if path.stem not in ("common", "shared")
)
AUTHORS = [name for name in NAMES if name.startswith("authors_")]
ARMS = [name for name in NAMES if not name.startswith(("micro/", "authors_", "cropvlm/"))]
CROPVLM = [name for name in NAMES if name.startswith("cropvlm/")]
TABLE_10 = ["ablations/conditional_iou.py", "ablations/no_threshold.py", "ablations/no_iou.py"]
STAGE_2 = ["stage2.py", *TABLE_10]
BEFORE = json.loads(Path(__file__).with_name("resolved_configs.json").read_text())
"""Settings of every config as they were when each size had a file, some as changes of another's."""


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
def test_every_arm_at_3b_differs_from_7b_in_its_model_alone(name):
    config = load_config(name, CONFIGS)
    assert load_config(f"{name}:7b", CONFIGS) == config
    begins = "runs/stage1{}" if name in STAGE_2 else "Qwen2.5-VL-{}-Instruct"
    small, large = ("_3b", "") if name in STAGE_2 else ("3B", "7B")
    assert config.model.path == begins.format(large)
    model = replace(config.model, path=begins.format(small))
    assert load_config(f"{name}:3b", CONFIGS) == replace(config, model=model)


CARDS = {"24gb": 20.2, "48gb": 40.9, "80gb": 72.8, "141gb": 129.7}
"""GiB that programs may use of an L4 (an RTX 4090 has more), an L40S (an A6000 has more), an H100,
and an H200, at 92 % of each."""


def on_one_chip(config, *words):
    words = ["--model.dtype", "bfloat16", "--model.remat", "attended",
             "--model.tower_remat", "attended", *words]  # fmt: skip
    return PlannedRun.of(override(config, words), slices.find("cpu:1"))


@pytest.mark.compiles
@pytest.mark.parametrize("size", common.ONE_CARD)
def test_what_is_always_there_fits_the_card_that_a_config_is_for(size):
    """By hand, for the phases of rollouts and of updates; the compiler's figures are in
    docs/training.md."""
    config, name = named_config(f"stage1.py:{size}", CONFIGS)
    assert name == f"stage1_{size}"
    check(config)
    room = CARDS[size.partition("-")[2]] * 2**30
    run = on_one_chip(config)
    cache = run.cache_bytes.prompts + run.cache_bytes.own
    rollouts = run.state_bytes + run.rollout_bytes - run.shared_bytes + cache
    assert rollouts < 0.9 * room
    updates = update_bytes(run.cfg, run.train_shapes, config.trainable, run.remat_room)
    assert updates < 0.95 * room
    follows = load_config(f"stage2.py:{size}", CONFIGS)
    assert follows.model == replace(config.model, path=f"runs/stage1_{size}")
    assert follows.optimizer.learning_rate == config.optimizer.learning_rate / 2


@pytest.mark.compiles
def test_without_int8_a_card_of_24_gb_would_not_do_for_7b():
    config = load_config("stage1.py:7b-24gb", CONFIGS)
    run = on_one_chip(config, "--model.lora.base", "same")
    cache = run.cache_bytes.prompts + run.cache_bytes.own
    held = run.state_bytes + run.rollout_bytes - run.shared_bytes + cache
    assert held > CARDS["24gb"] * 2**30


SINCE = {
    "health.most_skipped": 0.5,
    "update.constant_length": 0,
    "update.places": 0,
    "model.tower_remat": "auto",
    "optimizer.moments": "device",
    "rewards.likelihood": 0.0,
    "rewards.valid": 0.0,
    "rollout.ahead": 0,
    "rollout.dialogue": "zoom",
    "rollout.prefixes": 0,
    "target": None,
    "update.most_stale": None,
}
"""Settings that are younger than those files, and what they are where a config says nothing."""


@pytest.mark.parametrize("name", BEFORE)
def test_settings_are_those_of_the_files_that_each_size_had(name):
    expected = dict(BEFORE[name])
    if "like" in expected:
        whole = BEFORE[expected.pop("like")].copy()
        for gone in expected.pop("without", ()):
            del whole[gone]
        expected = whole | expected
    if expected["model.remat"] == "full":  # the default then
        expected["model.remat"] = "auto"
    config = load_config(name, CONFIGS)
    check(config)
    check(config, processes=4)
    assert flat(described(config)) == SINCE | expected


def flat(settings, within=""):
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{within}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value):
                found |= flat(item, f"{within}{name}[{number}].")
        else:
            found[within + name] = value
    return found


def test_every_size_of_every_config_was_compared():
    sizes = [f"{name}:{size}" for name in ARMS for size in ("3b", "micro")]
    younger = {*CROPVLM, "micro/ahead.py", "micro/boxes.py", "micro/target.py"}
    assert set(BEFORE) == {*NAMES} - younger | {*sizes}


@pytest.mark.parametrize("size", ["", ":3b", ":micro"])
@pytest.mark.parametrize("name", CROPVLM)
def test_crop_networks_hold_together_at_every_size(name, size):
    config = load_config(f"{name}{size}", CONFIGS)
    check(config)
    check(config, processes=4)
    assert config.proposals
    assert (config.target is None) == (name == "cropvlm/sft.py")
    first = config.model.path
    if name != "cropvlm/sft.py":
        _, run = named_config(f"cropvlm/sft.py{size}", CONFIGS)
        assert first == ("runs/demo-cropvlm/sft-0" if size == ":micro" else f"runs/{run}")


def test_crop_networks_have_the_published_values():
    """CropVLM's, as its authors' code has them where the paper says nothing."""
    sft, accuracy, likelihood = (
        load_config(f"cropvlm/{name}.py", CONFIGS) for name in ("sft", "accuracy", "likelihood")
    )
    lora = sft.model.lora
    assert (lora.rank, lora.alpha, lora.dropout, lora.vision) == (128, 256, 0.05, True)
    assert (sft.stage, sft.update.objective.kind, sft.rollout.prompts) == ("sft", "sft", 16)
    o = sft.optimizer
    assert (o.learning_rate, o.schedule, o.warmup / updates_of(sft)) == (
        5e-5, "cosine", pytest.approx(0.03, abs=1e-3),
    )  # fmt: skip
    for config in (accuracy, likelihood):
        r, u, o = config.rollout, config.update, config.optimizer
        assert (r.prompts, r.rollouts, r.temperature, r.turn_tokens) == (16, 6, 0.8, 32)
        assert (u.mini_batch, u.epochs, u.objective.kl) == (16, 1, 0.01)
        assert (u.deviation, u.aggregate, u.constant_length) == ("none", "constant", 32)
        assert (o.learning_rate, o.schedule, o.clip_norm) == (5e-6, "cosine", 0.1)
        assert o.warmup / updates_of(config) == pytest.approx(0.03, abs=1e-3)
        assert config.target.image_tokens * 28**2 == pytest.approx(512**2, rel=0.04)
        assert config.target.presentation == "both"
        assert config.target.crop_tokens == config.target.image_tokens, "one processor for both"
        assert config.target.answer_tokens == r.turn_tokens
    for config in (sft, accuracy, likelihood):
        assert 16 * config.steps == pytest.approx(62_000, abs=16), "one epoch"
        assert updates_of(config) == config.steps
    weights = [(c.rewards.accuracy, c.rewards.likelihood, c.rewards.valid)
               for c in (sft, accuracy, likelihood)]  # fmt: skip
    assert weights == [(0, 0, 1), (1, 0, 1), (0, 1, 1)]
    assert replace(accuracy, rewards=likelihood.rewards) == likelihood


def test_the_designs_of_table_10_differ_in_their_boxes_alone():
    conditional, no_threshold, no_iou = (load_config(name, CONFIGS) for name in TABLE_10)
    assert (conditional.rewards.boxes.tau, conditional.rewards.boxes.w) == (0.9, 1)
    assert (no_threshold.rewards.boxes.tau, no_threshold.rewards.boxes.w) == (None, 1)
    assert no_iou.rewards.grounding == 0
    rest = [described(config) | {"rewards": None} for config in (conditional, no_threshold, no_iou)]
    assert all(one == rest[0] for one in rest)


@pytest.mark.parametrize("size", ["", ":7b", ":3b"])
@pytest.mark.parametrize("kind", ["", "authors_"])
def test_stage_2_goes_on_from_the_folder_of_stage_1(kind, size):
    _, first = named_config(f"{kind}stage1.py{size}", CONFIGS)
    assert load_config(f"{kind}stage2.py{size}", CONFIGS).model.path == f"runs/{first}"


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("stage1.py", "stage1"),
        ("stage1", "stage1"),
        ("stage1.py:7b", "stage1"),
        ("stage1.py:3b", "stage1_3b"),
        ("stage1:3b", "stage1_3b"),
        (str(CONFIGS / "stage1.py"), "stage1"),
        (str(CONFIGS / "stage1.py") + ":3b", "stage1_3b"),
        ("ablations/no_iou:micro", "no_iou_micro"),
    ],
)
def test_a_name_with_and_without_a_size(name, run):
    assert named_config(name, CONFIGS)[1] == run


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stage3.py", r"config 'stage3.py'.*'ablations/no_iou.py'"),
        ("stage3.py:3b", r"config 'stage3.py:3b'.*'ablations/no_iou.py'"),
        ("stage1.py:13b", r"stage1.py: unknown size '13b'; known are 7b, 3b, 3b-24gb, .*, micro"),
        ("authors_stage2.py:micro", r"unknown size 'micro'; known are 7b, 3b$"),
        ("micro/words.py:3b", r"words.py: its get_config\(\) takes no argument, so '3b'"),
        ("stage1_3b.py", r"config 'stage1_3b.py' is now stage1.py:3b$"),
        ("stage1_3b", r"config 'stage1_3b' is now stage1.py:3b$"),
        ("ablations/no_iou_3b.py", r"is now ablations/no_iou.py:3b$"),
        ("micro/stage2.py", r"config 'micro/stage2.py' is now stage2.py:micro$"),
        ("micro/control.py", r"is now ablations/no_iou.py:micro$"),
        ("common.py", r"common.py: has no get_config\(\)"),
        ("cropvlm/shared.py", r"shared.py: has no get_config\(\)"),
        ("cropvlm/accuracy.py:13b", r"accuracy.py: unknown size '13b'; known are 7b, 3b, micro"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_config(name, CONFIGS)


def test_a_config_of_ones_own_takes_a_size(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from configs import stage1\n\n\n"
        "def get_config(size):\n"
        "    return stage1.get_config(size)\n"
    )
    assert named_config(f"{file}:3b") == (load_config("stage1.py:3b"), "own_3b")
    assert named_config(f"{tmp_path / 'own'}:3b")[1] == "own_3b"
    with pytest.raises(ValueError, match=r"own.py: needs its size behind a colon, as own.py:VALUE"):
        load_config(str(file))


OF_BEFORE = """
import lfpc_jax.grpo.update
from lfpc_jax import config as settings
from lfpc_jax.config import DataSettings, Source
from lfpc_jax.data.losses import Loss
from lfpc_jax.grpo.step import UpdateSettings
from lfpc_jax.grpo.trained import LoRA, Trained
from configs import stage1_3b
from configs.micro import control


def get_config():
    from lfpc_jax.config import TrainConfig
    assert isinstance(stage1_3b.get_config(), TrainConfig)
    assert control.get_config().rollout.capacity == 320
    assert Trained(True, LoRA())
    assert lfpc_jax.grpo.update.Learner
    return settings.TrainConfig(
        data=DataSettings(train=(Source("a", reader),)), update=UpdateSettings(mini_batch=8)
    )


def reader(path):
    yield Loss("a", "missing picture", "")
"""


def test_a_config_of_an_earlier_version_is_read_with_one_warning(tmp_path, caplog):
    """And the former names are gone again afterwards."""
    (tmp_path / "own.py").write_text(OF_BEFORE)
    config = load_config(str(tmp_path / "own.py"))
    assert type(config) is TrainConfig
    assert isinstance(next(config.data.train[0].reader("a")), Rejected)
    [warning] = caplog.messages
    for moved in (
        "lfpc_jax.config is now lfpc_jax.run.config",
        "lfpc_jax.data.losses is now lfpc_jax.data.rejected",
        "lfpc_jax.grpo.step is now lfpc_jax.grpo.updater",
        "lfpc_jax.grpo.trained is now lfpc_jax.model.parameters",
        "lfpc_jax.grpo.update is now lfpc_jax.grpo.learner",
        "configs.stage1_3b is now configs.stage1 with get_config('3b')",
        "configs.micro.control is now configs.ablations.no_iou with get_config('micro')",
    ):
        assert moved in warning
    for name in ("lfpc_jax.config", "configs.stage1_3b"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)
    assert not hasattr(lfpc_jax, "config")


def test_what_a_function_imports_later_is_told_when_the_config_is_loaded(tmp_path, caplog):
    """For then the former names are gone."""
    (tmp_path / "own.py").write_text(
        "from lfpc_jax.run.config import DataSettings, Source, TrainConfig\n\n\n"
        "def reader(path):\n"
        "    from lfpc_jax.data.losses import Loss\n"
        "    yield Loss('a', 'missing picture', '')\n\n\n"
        "def get_config():\n"
        "    return TrainConfig(data=DataSettings(train=(Source('a', reader),)))\n"
    )
    config = load_config(str(tmp_path / "own.py"))
    [warning] = caplog.messages
    assert "lfpc_jax.data.losses is now lfpc_jax.data.rejected" in warning
    assert "called after loading cannot import lfpc_jax.data.losses" in warning
    with pytest.raises(ModuleNotFoundError, match="losses"):
        next(config.data.train[0].reader("a"))


def test_a_module_that_never_was_is_not_found(tmp_path):
    (tmp_path / "own.py").write_text("from configs import stage7_3b\n")
    with pytest.raises(ValueError, match=r"own.py, line 1: ImportError: .*stage7_3b"):
        load_config(str(tmp_path / "own.py"))


def test_one_import_has_all_that_a_config_needs(tmp_path):
    (tmp_path / "own.py").write_text(
        "from lfpc_jax.run.config import *\n\n\n"
        "def get_config():\n"
        "    rewards = Rewards(boxes=Grounding(w=1.0), own=(OwnReward('a', 0.1, len),))\n"
        "    update = UpdateSettings(objective=Objective(kl=0.1))\n"
        "    return TrainConfig(rewards=rewards, update=update, model=ModelSettings(lora=LoRA()))\n"
    )
    assert load_config(str(tmp_path / "own.py")).rewards.boxes.w == 1


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
