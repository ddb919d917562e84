"""What a run's folder says of its beginning, and who writes it."""

import json
from dataclasses import replace

import pytest

from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.grpo.optimizer import OptimizerSettings
from lfpc_jax.run import folder as run_folder
from lfpc_jax.run.config import ModelSettings, TrainConfig
from lfpc_jax.run.folder import RunFolder, unfinished

ORIGIN = Origin(dtypes=("bfloat16",), layout="new")


@pytest.fixture
def config(tmp_path):
    """A run that begins from another."""
    first = RunFolder(tmp_path / "first")
    first.checkpoints.mkdir(parents=True)
    first.settings.write_text("{}")
    first.assets.mkdir()
    (first.assets / "tokenizer.json").write_text("[]")
    return TrainConfig(model=ModelSettings(path=str(first.path)))


def test_the_step_it_began_from_stays_however_far_the_other_run_comes(config, tmp_path):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    named = [first.path, first.checkpoints / "best", first.checkpoints / "40"]
    run.begin(config, first.assets, ORIGIN, 40)
    run.resume(replace(config, steps=90))
    assert {run.first_model(path) for path in named} == {first.checkpoints / "00000040"}
    assert run.origin == ORIGIN
    assert json.loads(run.settings.read_text())["steps"] == 90
    assert (run.assets / "tokenizer.json").read_text() == "[]"
    assert run.first_model(tmp_path) == tmp_path, "no run"


def test_one_that_never_came_to_a_checkpoint_begins_anew_with_any_settings(config, tmp_path):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    run.begin(config, first.assets, ORIGIN, 40)
    (first.assets / "tokenizer.json").rename(first.assets / "vocab.json")
    run.begin(replace(config, seed=9), first.assets, ORIGIN, None)
    assert json.loads(run.settings.read_text())["seed"] == 9
    assert {path.name for path in run.assets.iterdir()} == {"asking.json", "vocab.json"}
    assert run.first_model(first.path) == first.path
    with pytest.raises(ValueError, match=r"other settings of \['seed'\]"):
        run.resume(config)


def test_an_old_run_s_limit_goes_on_by_its_new_names_alone(config, tmp_path):
    """`max_tokens` was of an episode, whose turns it therefore limited as well."""
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    run.begin(config, first.assets, ORIGIN, 40)
    old = json.loads(run.settings.read_text())
    old["rollout"] = {k: v for k, v in old["rollout"].items() if not k.endswith("_tokens")} | {
        "image_tokens": 1024, "crop_tokens": 1024, "max_tokens": 300
    }  # fmt: skip
    run.settings.write_text(json.dumps(old))
    for limits in ({}, {"turn_tokens": 300}):
        other = replace(config, rollout=replace(config.rollout, **limits))
        with pytest.raises(ValueError, match=r"turn_tokens 300 --rollout\.episode_tokens 300"):
            run.resume(other)
    same = replace(config.rollout, turn_tokens=300, episode_tokens=300)
    run.resume(replace(config, rollout=same))
    assert "max_tokens" not in json.loads(run.settings.read_text())["rollout"]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_other_steps_may_not_bend_a_schedule(config, tmp_path, schedule):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    config = replace(config, optimizer=OptimizerSettings(schedule=schedule, warmup=2))
    run.begin(config, first.assets, ORIGIN, 40)
    before = run.settings.read_bytes()
    for steps in (40, 90):
        with pytest.raises(ValueError, match=rf"80 steps.*{schedule}.*--steps 80; .*--model.path"):
            run.resume(replace(config, steps=steps))
    assert run.settings.read_bytes() == before
    run.resume(config)


def test_a_setting_that_a_run_does_not_know_stood_at_its_default(config, tmp_path):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    run.begin(config, first.assets, ORIGIN, 40)
    begun = json.loads(run.settings.read_text())
    for name in ("dual_clip", "kl"):
        del begun["update"]["objective"][name]
    del begun["update"]["deviation"], begun["demonstrate"]
    run.settings.write_text(json.dumps(begun))
    objective = replace(config.update.objective, dual_clip=3.0)
    other = replace(config, update=replace(config.update, objective=objective, rows=7))
    names = r"\['update.objective.dual_clip', 'update.rows'\]"
    with pytest.raises(ValueError, match=f"other settings of {names}"):
        run.resume(other)
    run.resume(config)
    assert json.loads(run.settings.read_text())["update"]["objective"]["dual_clip"] is None


def test_a_run_whose_updates_ignored_its_temperature_does_not_go_on(config, tmp_path):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    config = replace(config, rollout=replace(config.rollout, temperature=0.7))
    run.begin(config, first.assets, ORIGIN, 40)
    run.resume(config)
    begun = json.loads(run.settings.read_text())
    del begun["update"]["deviation"]
    run.settings.write_text(json.dumps(begun))
    with pytest.raises(ValueError, match=r"ignored rollout.temperature 0.7.*--model.path"):
        run.resume(config)


@pytest.mark.parametrize("name", ["stage1", "20261129"])
def test_a_run_is_finished_with_a_whole_checkpoint_of_its_last_step(tmp_path, name):
    """However it is named: only a checkpoint's own number says that its step is meant."""
    run = RunFolder(tmp_path / name)
    for step in (60, 80):
        (run.checkpoints / f"{step:08d}").mkdir(parents=True)
    run.settings.write_text(json.dumps({"steps": 80}))
    assert "come to step 0 of 80" in unfinished(run.path), "all were cut short"
    (run.checkpoints / "00000060" / "manifest.json").write_text("{}")
    for path in (run.path, run.checkpoints / "best"):
        assert f"{path}: this run has only come to step 60 of 80" in unfinished(path)
    assert unfinished(run.checkpoints / "00000060") == ""
    (run.checkpoints / "00000080" / "manifest.json").write_text("{}")
    assert unfinished(run.path) == ""


def test_the_first_process_writes_and_all_raise_what_it_finds(config, tmp_path, monkeypatch):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    said = [""]
    monkeypatch.setattr(run_folder, "everyones", lambda own: [*said, own])
    monkeypatch.setattr(run_folder.jax, "process_index", lambda: 1)
    run.begin(config, first.assets, ORIGIN, None)
    assert not run.path.exists()
    said[0] = "second: was begun with other settings"
    with pytest.raises(ValueError, match="second: was begun with other settings"):
        run.begin(config, first.assets, ORIGIN, None)


def test_nobody_reads_half_a_file(config, tmp_path, monkeypatch):
    first, run = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    run.begin(config, first.assets, ORIGIN, 40)
    before = run.settings.read_bytes()

    def cut_short(self, text):
        with self.open("w") as file:
            file.write(text[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(run.path), "write_text", cut_short)
    with pytest.raises(ValueError, match="No space left"):
        run.resume(replace(config, steps=90))
    assert run.settings.read_bytes() == before
