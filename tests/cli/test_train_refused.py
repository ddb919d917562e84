"""Training runs that are refused before they begin, with the remedy."""

import sys
from dataclasses import replace

import pytest

from lfpc_jax.checkpoint import training
from lfpc_jax.cli import train
from lfpc_jax.data import layout
from lfpc_jax.run import resuming
from lfpc_jax.run.config import MeshSettings, RolloutSettings, TrainConfig
from lfpc_jax.run.config_checks import check_devices
from support import small
from support.training_runs import CONFIG, TARGET, finished, start

pytestmark = pytest.mark.compiles


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rollout.slot", "3"], "did you mean 'slots'"),
        (["--rollout.slots", "many"], "must be a whole number"),
        (["--rollout.capacity", "60"], "raise capacity"),
        (["--update.mini_batch", "3"], "no multiple of update.mini_batch"),
        (["--rollout.temperature", "0"], "all rollouts would be the same"),
        (["--rollout.rollouts", "1"], "a group of at least 2"),
        (["--stage", "sft"], "needs `demonstrate`"),
        (["--stage", "dpo"], "must be one of grpo, sft"),
        (["--update.row_tokens", "100"], "raise row_tokens"),
        (
            ["--update.old", "sampler", "--update.objective.importance_cap", "2"],
            "set update.old trainer, or importance_cap none",
        ),
        (["--rollout.ahead", "1"], "set --update.objective.importance_cap 2, or --update.old"),
        (["--rollout.ahead", "-1"], "it must be at least 0"),
        (["--update.most_stale", "2"], "set most_stale none, or ahead 1"),
        (
            ["--rollout.ahead", "1", "--update.old", "sampler", "--update.most_stale", "0"],
            "at least 1 update",
        ),
        (["--model.path", "nowhere"], "nowhere"),
        (["--data.train", "nowhere"], "nowhere"),
        (["--mesh.fsdp", "3"], "needs 3 devices"),
        (["--optimizer.learning_rate", "-1"], "must be positive"),
        (["--model.lora.rank", "4"], "--model.lora on"),
        (
            ["--model.lora", "on", "--model.lora.layers", "1,9"],
            "model.lora.layers [9]: the text has",
        ),
        (
            ["--judge.base_url", "http://h/v1"],
            "--judge: JudgeSettings needs base_url, model, cache",
        ),
        (["--judge", "on"], "--judge: JudgeSettings needs base_url, model, cache"),
        (["--rewards.boxes.tau", "2"], "share of the target"),
        (["steps", "3"], "expected an override"),
        (["--steps"], "has no value"),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(folder, monkeypatch, capsys, flags, message):
    monkeypatch.setenv("MICRO", str(folder))
    run = folder / "refused"
    assert train.main(["--config", CONFIG, "--run", str(run), *flags]) == 1
    assert message in capsys.readouterr().err
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mesh.fsdp", "3"], "needs 3 devices, there are 8"),
        (["--rollout.slots", "12"], "no multiple of the 8 copies"),
        (["--rollout.tensor", "3"], "rollout.tensor 3 does not divide the 8 devices"),
        (["--wandb_project", "lfpc"], "'lfpc', but Weights & Biases is not installed"),
    ],
)
def test_what_cannot_work_here_is_refused_before_anything_is_loaded(
    folder, monkeypatch, capsys, flags, message, dry
):
    monkeypatch.setenv("MICRO", str(folder))
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = folder / "refused-here"
    assert train.main(["--config", CONFIG, "--run", str(run), *flags, *dry]) == 1
    assert message in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("counts", "mesh", "rollout", "message"),
    [
        ((2, 1, 2), {"tensor": 2}, {}, "1 shards for 2 processes.*divides the 1 devices"),
        ((12, 3, 4), {"tensor": 2}, {}, "6 shards for 4 processes.*divides the 3 devices"),
        ((16, 4, 4), {}, {"tensor": 8}, "rollout.tensor 8 does not divide the 4 devices"),
        ((16, 4, 4), {}, {"slots": 30}, "rollout.slots 30.*4 copies.*set it to 28 or 32"),
        ((16, 4, 4), {}, {"slots": 3}, "rollout.slots 3.*set it to 4"),
        ((16, 4, 4), {"tensor": 2}, {"slots": 32}, None),
        ((32, 4, 8), {}, {"tensor": 2, "slots": 16}, None),
    ],
)
def test_devices_must_share_a_mesh_and_slots_evenly(counts, mesh, rollout, message):
    """Of all, of a process, and processes; the last two are docs/scaling.md's own."""
    config = TrainConfig(mesh=MeshSettings(**mesh), rollout=RolloutSettings(**rollout))
    named = dict(zip(("devices", "local", "processes"), counts))
    if message is None:
        check_devices(config, **named)
        return
    with pytest.raises(ValueError, match=message):
        check_devices(config, **named)


def test_changed_data_is_taken_on_purpose_and_old_checkpoints_do_not_know(tmp_path):
    before = {"data.train a": "1", "data.validation": "2"}
    now = before | {"data.validation": "3"}
    saved = training.Saved(tmp_path, 4, {"digests": before})
    with pytest.raises(ValueError, match=r"other records of data\.validation, "):
        resuming.check_same_data(saved, now, changed_data=False)
    resuming.check_same_data(saved, now, changed_data=True)
    resuming.check_same_data(saved, before, changed_data=False)
    resuming.check_same_data(training.Saved(tmp_path, 4, {}), now, changed_data=False)


def test_a_run_whose_prompts_are_too_long_is_refused_before_anything_compiles(
    folder, monkeypatch, capsys
):
    """One set of two, whose weights count. It said so after all programs had compiled."""
    monkeypatch.setenv("MICRO", str(folder))
    for fault in ("begin_state", "engine_of"):
        monkeypatch.setattr(train, fault, lambda *_, **__: pytest.fail("nothing may compile"))
    layout.write(folder / "verbose", [replace(small.record(0), question="why " * 60)])
    run, sets = folder / "verbose-run", f"{folder / 'set'},{folder / 'verbose'}"
    flags = ["--health.most_skipped", "0.4", "--data.train", sets, "--data.validation", ""]
    assert train.main(["--config", CONFIG, "--run", str(run), *flags]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {folder / 'verbose'}: 100.0% of its prompts are longer")
    assert "fit with --rollout.prompt_text 48," in last
    assert not (run / "config.json").exists()


@pytest.mark.long
def test_a_step_of_which_most_prompts_are_too_long_saves_and_exits_with_3(folder):
    """Two of three questions, and three of the first step's four: an epoch, and one of the next."""
    short, *others = [small.record(i, targets=(TARGET,)) for i in range(3)]
    long = [replace(record, question="why " * 60) for record in others]
    layout.write(folder / "long", [short, *long])
    run, data = folder / "skipping", str(folder / "long")
    flags = ["--data.train", data, "--health.most_skipped", "0.7", "--data.validation", ""]
    errors = finished(start(folder, run, *flags), code=3)
    assert "prompts of step 1 could not be shown, more than the share health.most_skipped" in errors
    assert "All prompts so far fit with --rollout.prompt_text 48," in errors
    assert errors.count("text tokens of a prompt are more than") == 2, "a line, and the reason"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["00000000"]
