"""What cannot work is refused when the settings are checked, with the setting's name."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest

from lfpc_jax.cli import train
from lfpc_jax.processing.images import ImageProcessor
from lfpc_jax.processing.small_vocabulary import write_tokenizer
from lfpc_jax.rewards.total import OwnReward, Rewards
from lfpc_jax.run.config import Source, described
from lfpc_jax.run.config_checks import check
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.overrides import override
from lfpc_jax.shapes import RolloutShapes, TrainShapes


def stage_1(*words: str):
    return override(load_config("stage1.py", train.CONFIGS), words)


def test_a_config_file_with_the_old_limit_is_refused_by_the_new_names(tmp_path):
    file = tmp_path / "old.py"
    file.write_text(
        "from lfpc_jax.run.config import RolloutSettings, TrainConfig\n\n"
        "def get_config():\n    return TrainConfig(rollout=RolloutSettings(max_tokens=64))\n"
    )
    with pytest.raises(ValueError, match=r"old\.py: max_tokens.*turn_tokens .*episode_tokens"):
        load_config(str(file), tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rollout.top_p 2", r"top_p=2.0\): .*0 < top_p <= 1"),
        ("--rollout.top_k -1", "top_k=-1.*top_k >= 0"),
        ("--health.most_apart -0.1", "health.most_apart is -0.1, a distance.*inf to never stop"),
        ("--health.most_apart nan", "health.most_apart is nan; give a number"),
        ("--rollout.temperature nan", "rollout.temperature is nan; give a number"),
        ("--rollout.max_turns 0", "rollout.max_turns is 0; it must be at least 1"),
        ("--rollout.turn_tokens 0", "rollout.turn_tokens is 0; it must be at least 1"),
        ("--rollout.episode_tokens -1", "rollout.episode_tokens is -1; it must be at least 0"),
        ("--rollout.max_tokens 64", "rollout.max_tokens: .* turn_tokens .* episode_tokens"),
        ("--rollout.image_tokens 2", "rollout.image_tokens 2: min_pixels 3136.*raise the token bu"),
        ("--rollout.crop_tokens 4", "rollout.crop_tokens 4: zoom: small crops.*raise the budget"),
        ("--update.rows 0", "update.rows is 0; it must be at least 1"),
        ("--update.windows -1", "update.windows is -1; it must be at least 0"),
        ("--update.places -1", "update.places is -1; it must be at least 0"),
        ("--update.objective.kl nan", "kl and entropy must be finite"),
        ("--update.objective.entropy inf", "kl and entropy must be finite"),
        ("--update.objective.clip_high nan", "clip_high over 0"),
        ("--update.objective.importance_cap nan", "cap under 1 would"),
        ("--update.objective.dual_clip 0.5", "dual_clip bounds ratios .* over 1, as verl's 3, or"),
        (
            "--update.micro_batch_mean 3",
            "mean 3 with stage grpo and rollout.rollouts 16.*a divisor",
        ),
        ("--update.aggregate constant", "constant_length 0: the length divides .* set both, as"),
        (
            "--update.constant_length 32",
            "token with update.constant_length 32: .* neither",
        ),
        ("--update.constant_length -1", "constant_length is -1; it must be at least 0"),
        ("--update.micro_batch_mean -1", "update.micro_batch_mean is -1; it must be at least 0"),
        ("--optimizer.b1 -0.1", "b1 and b2 .* below 1"),
        ("--optimizer.b2 2", "b1 and b2 .* below 1"),
        ("--optimizer.b2 1", "b1 and b2 .* below 1"),
        ("--optimizer.weight_decay nan", "weight_decay=nan.*: .*weight_decay .*; a rate is finite"),
        ("--keep_best -1", "keep_best is -1; it must be at least 0"),
        ("--seed -1", "seed is -1; it must be at least 0"),
        ("--data.validation_records -1", "data.validation_records is -1; it must be at least 0"),
        (
            "--data.validation a,b,c --data.validation_records 2",
            "2 for 3 sets, so some",
        ),
        ("--data.max_lost 2", "data.max_lost is 2.0; it is a share"),
        ("--data.train a,b,a", "data.train has 'a' twice; name it once"),
        ("--health.patience 0", "health.patience is 0; it must be at least 1"),
        ("--health.most_area nan", "health.most_area is nan"),
        ("--health.most_area 95", "health.most_area is 95.0; it is a share, from 0 to 1"),
        ("--health.most_invalid 90", "health.most_invalid is 90.0; it is a share, from 0 to 1"),
        ("--validation_temperature -1", "validation_temperature is -1.0; take none .*0 .greedy"),
        ("--validation_temperature 1e-9", "validation_temperature is 1e-09; take none"),
        ("--rollout.temperature 1e-4", "temperature=0.0001.*divided by so little.*0.001, or 0"),
        ("--rollout.top_k 20", "rollout.top_k 20 and top_p 1.0.*Set top_k 0 and top_p 1; a lower"),
        ("--rollout.top_p 0.9", "rollout.top_k 0 and top_p 0.9.*Set top_k 0 and top_p 1; a lower"),
        ("--update.objective.importance_cap 2 --rollout.top_p 0.9", "cap does not correct that"),
        ("--update.old sampler --rollout.top_k 20", "rollout.top_k 20.*Set top_k 0"),
        ("--update.old sampler --update.objective.importance_cap 2", "nothing to correct"),
    ],
)
def test_what_fails_late_is_refused_by_a_dry_run(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "print_plan", lambda _: None)
    monkeypatch.setattr(train, "print_data", lambda _: None)
    with pytest.raises(ValueError, match=message):
        check(stage_1(*words.split()))
    assert train.main(["--config", "stage1.py", "--dry-run", *words.split()]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "words",
    [
        "--rollout.temperature 0.7",
        "--rollout.image_tokens 4 --rollout.crop_tokens 100",
        "--update.old sampler",
        "--update.old sampler --rollout.temperature 0.7",
        "--validation_temperature 0",
        "--update.objective.kl 0.1 --update.objective.clip_high inf",
        "--update.objective.dual_clip 3 --update.deviation unbiased --update.micro_batch_mean 2",
        "--optimizer.b1 0 --optimizer.clip_norm inf",
        "--keep_best 0 --data.validation_records 0 --health.patience 1",
    ],
)
def test_what_works_is_not(words):
    check(stage_1(*words.split()))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_set_without_a_share_is_refused(weight):
    config = stage_1()
    data = replace(config.data, train=(Source("a"), Source("b", weight=weight)))
    with pytest.raises(ValueError, match=r"'b' has a weight of|data.train\[1\].weight is nan"):
        check(replace(config, data=data))


@pytest.mark.parametrize(
    ("inside", "named"),
    [("", ""), ("assets", ""), ("assets", "checkpoints/best"), ("assets", "checkpoints/00000040"),
     ("hf", "")],
)  # fmt: skip
def test_the_budgets_are_those_of_the_models_own_processor(tmp_path, inside, named):
    """A folder, a run or a checkpoint of one, or what to-orbax wrote, with a minimum of 16 tokens.
    Of published models it is 4."""
    (folder := tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / named).mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, ["a"], 300, ImageProcessor(min_pixels=16 * 784), whole=())
    words = ("--model.path", str(tmp_path / named), "--rollout.image_tokens")
    check(stage_1(*words, "16"))
    with pytest.raises(ValueError, match=r"rollout.image_tokens 15: min_pixels 12544"):
        check(stage_1(*words, "15"))


@pytest.mark.parametrize("named", [{"rows": 0}, {"max_turns": 0}, {"windows": -1}, {"places": -1}])
def test_shapes_of_nothing_are_refused(named):
    with pytest.raises(ValueError, match=r"train shapes: .* must be at least 1"):
        TrainShapes.of(RolloutShapes(), **{"max_turns": 2, "rows": 1} | named)


def test_updates_improve_the_policy_at_the_temperature_of_rollouts():
    config = stage_1("--rollout.temperature", "0.7")
    assert config.policy_temperature == config.rules.sampling.temperature == 0.7
    assert replace(config, stage="sft").policy_temperature == 1
    assert config.validation_sampling == config.rules.sampling
    assert replace(config, validation_temperature=0.0).validation_sampling.temperature == 0


def test_how_far_sampler_and_trainer_may_lie_apart_is_by_dtype_unless_said():
    assert [stage_1().most_apart(dtype) for dtype in ("float32", "bfloat16")] == [1e-3, 0.1]
    for said, limit in (("0.5", 0.5), ("inf", math.inf), ("none", 0.1)):
        assert stage_1("--health.most_apart", said).most_apart("bfloat16") == limit
    taught = replace(stage_1(), stage="sft")
    assert taught.most_apart("float32") == math.inf, "demonstrations have no sampler"


def times(trajectory, record, *, factor):
    return factor * len(trajectory.turns)


class Steady:
    def __call__(self, trajectory, record):
        return 1.0


def test_a_function_with_its_arguments_is_described():
    """A run's settings are compared by it when it goes on: another factor is another reward."""

    def named(function):
        own = OwnReward("mine", 1.0, function)
        whole = described(replace(stage_1(), rewards=Rewards(own=(own,))))
        return json.loads(json.dumps(whole))["rewards"]["own"][0]["function"]

    assert named(times) == f"{__name__}.times"
    assert named(Steady()) == f"{__name__}.Steady"
    twice = {"function": f"{__name__}.times", "arguments": [], "named": {"factor": 2}}
    assert named(partial(times, factor=2)) == twice
    assert named(partial(times, factor=3)) != twice


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def get_config(:\n", "line 1: invalid syntax: def get_config(:"),
        ("x = 1\n  y = 2\n", "line 2: unexpected indent: y = 2"),
        ("\n\nimport nothing_like_it\n", "line 3: ModuleNotFoundError: No module named"),
        ("def get_config():\n    return Train()\n", "line 2: NameError: name 'Train' is not"),
        ("\nraise SystemExit(3)\n", "line 2: SystemExit: 3"),
    ],
)
def test_a_config_that_is_no_python_is_refused_with_file_and_line(tmp_path, capsys, text, told):
    file = tmp_path / "mine.py"
    file.write_text(text)
    assert train.main(["--config", str(file), "--dry-run"]) == 1
    assert f"error: {file}, {told}" in capsys.readouterr().err


def test_a_file_of_another_kind_is_no_config(tmp_path, capsys):
    file = tmp_path / "mine.txt"
    file.write_text("")
    assert train.main(["--config", str(file), "--dry-run"]) == 1
    assert f"error: {file}: is no Python file" in capsys.readouterr().err
