"""Training runs as a user starts them: exact resume, SIGTERM, two processes, export, refusals."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lfpc_jax.checkpoint import training
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.cli import convert, replay, train
from lfpc_jax.distributed.mesh import make_mesh
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.rollout.engine import LogitsNotFinite
from lfpc_jax.run import resuming
from lfpc_jax.run.config_files import load_config
from lfpc_jax.run.folder import RunFolder
from lfpc_jax.run.models import LoadedModel
from lfpc_jax.run.overrides import override
from support import metrics_page, micro, small
from support.judge_server import JudgeServer, status
from support.left import arrays, facts, metrics, near, same
from support.processes import coordinator_flags
from support.training_runs import CONFIG, finished, start

pytestmark = [pytest.mark.compiles, pytest.mark.long]

HERE = Path(__file__).parent


def test_a_run_leaves_what_it_says(whole):
    found = metrics(whole)
    assert list(found) == [("train", 1), ("validation", 2), ("train", 2), ("validation", 3),
                           ("train", 3)]  # fmt: skip
    first = found["train", 1]
    for name in ("reward/total", "reward/format", "reward/r_geo", "crop/rate", "end/answered",
                 "update/loss", "update/gradient_norm", "update/sampler_apart", "rollout/decode",
                 "rollout/occupancy", "time/rollout", "update/learning_rate",
                 "speed/sampled_tokens"):  # fmt: skip
        assert np.isfinite(first[name]), name
    assert first["update/sampler_apart"] < 1e-4
    written = {name for values in found.values() for name in values} - {"kind", "step"}
    assert written <= metrics_page.of_runs()
    optional = ("update/reference_kl", "update/entropy")
    updates = {name for name in metrics_page.of_runs() if name.startswith("update/")}
    assert updates - written == {*optional}
    checked = found["validation", 2]
    gap = checked["validation/accuracy"] - checked["validation/blank_accuracy"]
    assert checked["validation/gap"] == pytest.approx(gap)
    assert sorted(p.name for p in (whole / "checkpoints").iterdir()) == ["00000002", "00000003"]
    [first_part, *_] = Archive(whole / "trajectories").parts()
    groups = list(Archive(whole / "trajectories").read(first_part))
    assert len(groups) == 4
    assert all(len(group.trajectories) == len(group.rewards) == 4 for group in groups)
    assert list((whole / "tensorboard").iterdir())
    assert json.loads((whole / "config.json").read_text())["rollout"]["slots"] == 2
    log = (whole / "log.txt").read_text()
    assert "step 3 of 3" in log
    assert log.count("was selected by another model than the one that is trained") == 1


def test_its_episodes_replay_without_a_difference(whole, capsys):
    """By the weights that sampled them: the first model, and those after steps 2 and 3."""
    assert replay.main([str(whole), "--tolerance", "1e-4"]) == 0
    printed = capsys.readouterr().out
    for part in ("step-000001  ", "validation-000002  ", "validation-000003  "):
        assert part in printed
    assert "not kept: step-000002" in printed


def test_the_policy_moves(whole, folder):
    before = load_file(folder / "hf" / "model.safetensors")
    after = arrays(whole)["trained/embed"]
    assert 1e-4 < np.abs(after - before["model.embed_tokens.weight"]).max() < 1e-1


def test_imitates_what_is_demonstrated(folder):
    run = folder / "taught"
    finished(start(folder, run, config=str(HERE / "taught.py")))
    losses = [values["update/loss"] for values in metrics(run).values()]
    assert losses[-1] < losses[0] - 1
    archive, tokenizer = Archive(run / "trajectories"), small.dialogue().tokenizer
    looked = 0
    for group in [group for part in archive.parts() for group in archive.read(part)]:
        [found] = group.trajectories
        told_of_the_tool = "image_zoom_in_tool" in tokenizer.decode(
            found.ids[: found.turns[0].start]
        )
        looks = int(group.record.id[-1]) % 2
        assert told_of_the_tool == bool(looks)
        assert len(found.turns) == 1 + looks
        if looks:
            width, height = found.original
            wanted = (0.1 * width, 0.2 * height, 0.6 * width, 0.9 * height)
            assert found.turns[0].crop.box == pytest.approx(wanted)
            looked += 1
    assert looked >= 2


@pytest.fixture(scope="module")
def scrambled(folder):
    """A run whose rollouts have scrambled weights in the third step, its flags and errors."""
    run, flags = folder / "scrambled", ("--checkpoint_every", "100", "--keep_best", "0")
    errors = finished(start(folder, run, *flags, config=str(HERE / "scrambled.py")), code=3)
    return run, flags, errors


def test_rollouts_from_scrambled_weights_stop_the_run_before_they_are_trained_on(
    folder, whole, scrambled
):
    """What the second step left is saved."""
    run, _, errors = scrambled
    assert (
        "stopped: the log-probabilities that sampler and trainer give the tokens of step 3"
        in errors
    )
    assert "more than health.most_apart 0.001" in errors
    assert facts(run)["step"] == 2
    assert [step for kind, step in metrics(run) if kind == "train"] == [1, 2]
    second = folder / "second-step"
    shutil.copytree(whole, second)
    shutil.rmtree(second / "checkpoints" / "00000003")
    ours, theirs = arrays(run), arrays(second)
    assert {name: x.tobytes() for name, x in ours.items()} == {
        name: x.tobytes() for name, x in theirs.items()
    }


@pytest.mark.slow
def test_once_its_weights_are_right_it_goes_on_as_if_nothing_had_been(folder, whole, scrambled):
    """As one that was told to stop does, in `test_train_resumed.py`."""
    run, flags, _ = scrambled
    finished(start(folder, run, *flags))
    same(run, whole)


@pytest.mark.slow
def test_where_no_prompt_can_be_shown_it_ends_and_says_why(folder):
    run = folder / "nothing"
    errors = finished(start(folder, run, "--rollout.prompt_text", "4"), code=1)
    assert "step 1: none of" in errors
    assert "prompts could be shown; the last, " in errors
    assert "All prompts so far fit with --rollout.prompt_text 4,64" in errors
    assert not metrics(run)


@pytest.mark.slow
def test_an_alarm_that_stops_saves_and_exits_with_3(folder):
    """After the second of three steps without enough crops. Its rollouts are at a temperature that
    updates follow, and its validation is greedy."""
    run = folder / "unhealthy"
    colder = ["--rollout.temperature", "0.7", "--validation_temperature", "0"]
    flags = ["--health.least_tool_rate", "1.1", "--health.patience", "2", "--health.from_step", "1",
             "--health.stop", "true", "--checkpoint_every", "100"]  # fmt: skip
    errors = finished(start(folder, run, *flags, *colder), code=3)
    assert "stopped after step 2: only" in errors
    assert (facts(run)["step"], facts(run)["health"]) == (2, 2)
    assert [step for kind, step in metrics(run) if kind == "train"] == [1, 2]
    assert metrics(run)["train", 1]["update/sampler_apart"] < 1e-4
    for group in Archive(run / "trajectories").read("validation-000002"):
        assert not group.trajectories[0].logprobs.any(), "greedy"
    assert "compiled after warm-up" not in errors


@pytest.mark.slow
def test_a_step_without_rewards_is_not_trained_on_and_goes_on_once_that_is_mended(
    folder, monkeypatch
):
    """A reward of one's own raises every time; six such steps once left the parameters untouched,
    said nothing and exited with 0."""
    run, config = folder / "failing", str(HERE / "failing.py")
    errors = finished(start(folder, run, config=config), code=3)
    assert "16 of 16 episodes could not be scored (mine: KeyError; told once)" in errors
    assert "100.0% of the episodes of step 1 have no reward" in errors
    assert "mine 100.0% (record " in errors
    assert "health.most_masked" in (run / "log.txt").read_text()
    assert facts(run)["step"] == 0
    assert not metrics(run)
    monkeypatch.setenv("REPAIRED", "yes")
    finished(start(folder, run, config=config))
    assert facts(run)["step"] == 1
    assert metrics(run)["train", 1]["reward/mine"] == 1.5
    assert "masked 0.000" in (run / "log.txt").read_text()


def test_a_judge_that_gives_no_verdicts_is_named_before_anything_is_loaded(
    tmp_path, monkeypatch, capsys
):
    """A wrong key once trained on the share that the rules could tell, at an accuracy of 1."""
    monkeypatch.setenv("MICRO", str(tmp_path))  # where there is neither model nor data
    monkeypatch.setenv("JUDGE_KEY", "sk-wrong-key-of-mine")
    with JudgeServer(lambda index, claim: status(401)) as server:
        config = tmp_path / "judged.py"
        config.write_text(
            "from dataclasses import replace\nfrom support import micro\n"
            "from lfpc_jax.rewards.judge import JudgeSettings\n"
            f"judge = JudgeSettings({server.url!r}, 'm', {str(tmp_path)!r}, 'JUDGE_KEY')\n"
            "def get_config():\n    return replace(micro.get_config(), judge=judge)\n"
        )
        assert train.main(["--config", str(config), "--run", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert f"asking the judge, {server.url}/chat/completions, model m ..." in said
    assert "error: the judge gives no verdicts: " in said
    assert "HTTP 401 Unauthorized" in said
    assert "check the API key in the environment variable JUDGE_KEY" in said
    assert "wrong-ke" not in said
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def two(folder):
    """The same three steps in two processes, with no checkpoint due in any."""
    run = folder / "two"
    flags = ["--checkpoint_every", "100", *coordinator_flags()]
    both = [start(folder, run, *flags, str(i)) for i in range(2)]
    for process in both:
        finished(process)
    return run


def test_two_processes_are_one(two, whole):
    near(two, whole)
    assert facts(two)["data"] == facts(whole)["data"]
    for at, values in metrics(whole).items():
        for name in ("reward/total", "crop/rate", "episode/tokens", "validation/accuracy"):
            assert metrics(two)[at].get(name) == pytest.approx(values.get(name)), (at, name)


def test_only_the_first_process_writes_metrics(two):
    [_] = (two / "tensorboard").iterdir()
    lines = (two / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(metrics(two)) == 5


def test_what_was_validated_is_saved_with_its_score(two):
    """So that the best can be kept, whether or not a checkpoint falls on it."""
    validated = {step: v for (kind, step), v in metrics(two).items() if kind == "validation"}
    assert list(validated) == [2, 3]
    saved = {step: training.of_step(RunFolder(two).checkpoints, step) for step in validated}
    for step, values in validated.items():
        assert saved[step].facts["accuracy"] == values["validation/accuracy"]


def test_three_updates_that_are_not_finite_leave_with_2_and_their_batch(folder):
    """A weight too large for a product, taught: nothing need be earned to be learned from."""
    poisoned = folder / "poisoned"
    shutil.copytree(folder / "hf", poisoned)
    (poisoned / "sums.json").unlink()
    weights = load_file(poisoned / "model.safetensors")
    norm = weights["model.norm.weight"]
    weights["model.norm.weight"] = np.where(np.arange(norm.size) == 0, 3e38, norm)
    save_file(weights, poisoned / "model.safetensors", metadata={"format": "pt"})
    run = folder / "not-finite"
    taught = start(folder, run, "--model.path", str(poisoned), config=str(HERE / "taught.py"))
    errors = finished(taught, code=2)
    assert "3 updates in a row had a loss or gradient that is not finite" in errors
    [file] = run.glob("*.npz")
    assert file.name == "not-finite-000003-0.npz"
    assert f"saved the batch as {file}" in errors
    with np.load(file) as batch:
        rows = sum(name.endswith(".tokens.ids") for name in batch)
        weights = [batch[f"rows[{number}].weights"] for number in range(rows)]
        assert np.isclose(sum(map(np.sum, weights)), 1)
        for number, counted in enumerate(weights):
            at, ids = (batch[f"rows[{number}].{name}"] for name in ("at", "tokens.ids"))
            assert at.shape == counted.shape
            assert len(at) == len(ids)
        assert batch["pictures[0].pixels"].any()
    assert list(metrics(run)) == [("train", 1), ("train", 2)]
    assert all(values["update/refused"] == 1 for values in metrics(run).values())


def test_logits_that_are_not_finite_leave_with_2(folder, monkeypatch, capsys):
    def rolls_out(*_, **__):
        raise LogitsNotFinite("after step 4: record 'r1': the model's logits are not finite")

    monkeypatch.setenv("MICRO", str(folder))
    monkeypatch.setattr(train, "train", rolls_out)
    assert train.main(["--config", CONFIG, "--run", str(folder / "noise")]) == 2
    assert "error: after step 4: record 'r1': the model's" in capsys.readouterr().err


def test_a_run_is_exported_and_starts_the_next_stage(folder, whole, monkeypatch, capsys):
    out = folder / "exported"
    assert convert.main(["to-hf", str(whole), str(out)]) == 0
    ours = load_file(out / "model.safetensors")
    trained = arrays(whole)["trained/embed"]
    assert ours["model.embed_tokens.weight"].tobytes() == trained.tobytes()
    assert convert.main(["check", str(out), "--prompts", "2"]) == 0
    monkeypatch.setenv("MICRO", str(folder))
    flags = ["--config", CONFIG, "--model.path", str(whole), "--dry-run"]
    assert train.main(flags) == 0
    printed = capsys.readouterr().out
    assert "windows of a crop" in printed
    assert "Adam's two moments" in printed


def test_to_start_from_an_unfinished_run_is_warned_of(folder, whole, monkeypatch, capsys):
    """Stage II from a Stage I that was cut short, which nothing else would tell."""
    monkeypatch.setenv("MICRO", str(folder))
    run = folder / "cut-short"
    (run / "checkpoints" / "00000002").mkdir(parents=True)
    (run / "checkpoints" / "00000002" / "manifest.json").write_text("{}")  # it is whole
    shutil.copytree(whole / "assets", run / "assets")
    shutil.copy(whole / "config.json", run)
    said = f"warning: {run}: this run has only come to step 2 of 3, and is used as it is"
    for model, warned in ((run, True), (run / "checkpoints" / "00000002", False), (whole, False)):
        train.main(["--config", CONFIG, "--model.path", str(model), "--dry-run"])
        assert (said in capsys.readouterr().err) == warned, model


def test_what_another_run_learned_is_taken_whole_where_bfloat16_would_drop_it(
    folder, whole, monkeypatch
):
    monkeypatch.setenv("MICRO", str(folder))
    config = override(
        load_config(CONFIG, HERE), ["--model.path", str(whole), "--model.dtype", "bfloat16"]
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    model = resuming.first_model(config, RunFolder(folder / "third"), mesh, resumes=False)
    masters = arrays(whole)["trained/embed"]
    assert masters.tobytes() != masters.astype(jnp.bfloat16).astype(np.float32).tobytes()
    assert np.asarray(model.params["embed"]).tobytes() == masters.tobytes()
    assert model.cfg.dtype == "bfloat16", "it computes in"


@pytest.mark.slow
def test_factors_start_from_a_run_stay_near_it_however_far_it_comes_and_are_exported(folder, whole):
    """LoRA with a KL term, from another run: two steps, the second resumed after that run has a
    newer checkpoint."""
    first, run = folder / "first", folder / "second"
    shutil.copytree(whole, first)
    shutil.move(first / "checkpoints" / "00000003", folder / "newer")
    flags = ["--model.path", str(first), "--model.lora", "on", "--model.lora.projections", "q,down",
             "--update.objective.kl", "0.1", "--update.mini_batch", "4"]  # fmt: skip
    finished(start(folder, run, "--steps", "1", *flags))
    began = arrays(first)
    shutil.move(folder / "newer", first / "checkpoints" / "00000003")
    assert "has only come to step 2 of 3" in (run / "log.txt").read_text()
    errors = finished(start(folder, run, "--steps", "2", *flags))
    assert "of 3 only" not in errors
    assert f"restoring {first}/checkpoints/00000002" in errors
    assert "resumes after step 1" in errors
    away = [metrics(run)["train", step]["update/reference_kl"] for step in (1, 2)]
    assert abs(away[0]) < 1e-10 < away[1], f"{away}: before the first update it is the reference"

    base, factors = arrays(run, ("frozen",)), arrays(run)
    for name, array in base.items():
        assert array.tobytes() == began[name.replace("frozen", "trained")].tobytes(), name
    assert factors["optimizer/updates"] == 2, "an optimizer of its own"
    lora = {name: factors.pop(name) for name in list(factors) if name.startswith("trained")}
    assert {name.split("/")[2] for name in lora} == {"q", "down"}
    assert all(np.abs(array).max() > 0 for array in lora.values())

    assert convert.main(["to-hf", str(run), str(folder / "with-factors")]) == 0
    ours = load_file(folder / "with-factors" / "model.safetensors")
    for projection, name in (("q", "self_attn.q_proj"), ("down", "mlp.down_proj")):
        a, b = (lora[f"trained/text/{projection}/lora/{one}"].astype(np.float64) for one in "ab")
        weights = base[f"frozen/text/{projection}/w"]
        for layer, weight in enumerate(weights):
            added = np.tensordot(a[layer], b[layer], axes=1)
            wanted = (weight + added).reshape(
                -1, ours[f"model.layers.{layer}.{name}.weight"].shape[0]
            )
            found = ours[f"model.layers.{layer}.{name}.weight"].T
            np.testing.assert_allclose(found, wanted, atol=1e-6)
    key = base["frozen/text/k/w"][0]
    kept = ours["model.layers.0.self_attn.k_proj.weight"].T
    assert kept.tobytes() == key.reshape(kept.shape).tobytes()


@pytest.mark.slow
def test_factors_on_int8_resume_without_the_model_and_are_exported_with_it(folder, tmp_path):
    """With the moments in the host's memory; what the run held is in its checkpoints, and what
    rounding took is said when it begins. An export has the weights that the run began from."""
    hf, run = shutil.copytree(folder / "hf", tmp_path / "hf"), tmp_path / "run"
    flags = ["--model.path", str(hf), "--model.lora", "on", "--model.lora.base", "int8",
             "--optimizer.moments", "host"]  # fmt: skip
    finished(start(folder, run, "--steps", "2", *flags))
    whole = arrays(run, ("trained", "frozen"))
    finished(start(folder, tmp_path / "other", "--steps", "1", *flags))
    assert "int8 changes the text's weights by 0." in (run / "log.txt").read_text()
    weights = shutil.move(hf, tmp_path / "away")
    finished(start(folder, tmp_path / "other", "--steps", "2", *flags))
    again = arrays(tmp_path / "other", ("trained", "frozen"))
    assert {name: x.tobytes() for name, x in again.items()} == {
        name: x.tobytes() for name, x in whole.items()
    }
    assert whole["frozen/text/q/w"].dtype == np.int8
    assert metrics(run)["train", 2]["update/sampler_apart"] < 1e-4

    assert convert.main(["to-hf", str(run), str(tmp_path / "out")]) == 1, "the model is away"
    shutil.move(weights, hf)
    assert convert.main(["to-hf", str(run), str(tmp_path / "out")]) == 0
    ours, before = (load_file(path / "model.safetensors") for path in (tmp_path / "out", hf))
    a, b = (whole[f"trained/text/down/lora/{one}"][1].astype(np.float64) for one in "ab")
    name = "model.layers.1.mlp.down_proj.weight"
    np.testing.assert_allclose(ours[name].T, before[name].T + a @ b, atol=1e-6)


def test_a_kl_term_measures_from_the_weights_it_began_with_or_not_at_all(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("MICRO", str(folder))
    hf = shutil.copytree(folder / "hf", tmp_path / "hf")
    config = override(micro.get_config(), ["--update.objective.kl", "0.1"])
    model = LoadedModel(small.config(), None, hf, Origin(("float32",)), folder=hf)
    assert resuming.reference_digest(micro.get_config(), model, None) is None
    began = resuming.reference_digest(config, model, None)
    saved = training.Saved(tmp_path, 4, {"reference": began})
    assert resuming.reference_digest(config, model, saved) == began
    weights = load_file(hf / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, hf / "model.safetensors", metadata={"format": "pt"})
    model = replace(model)  # loaded anew
    with pytest.raises(ValueError, match=f"{hf}: holds other weights than when the run began"):
        resuming.reference_digest(config, model, saved)
    assert resuming.reference_digest(config, model, training.Saved(tmp_path, 4, {})) != began, (
        "an old one"
    )


def test_int8_is_refused_for_weights_that_are_trained(folder, monkeypatch):
    monkeypatch.setenv("MICRO", str(folder))
    with pytest.raises(ValueError, match=r"lora is off; turn it on first: --model\.lora on"):
        train.override(micro.get_config(), ["--model.lora.base", "int8"])


def test_overrides_reach_every_kind_of_setting(folder, monkeypatch):
    monkeypatch.setenv("MICRO", str(folder))
    words = ["--model.lora", "on", "--model.lora.rank=4", "--model.lora.layers", "0,1",
             "--rewards.boxes.tau", "none", "--rollout.prompt_text", "32,48",
             "--data.train", "a,b", "--health.stop", "true",
             "--update.objective.clip_high", "0.28"]  # fmt: skip
    config = train.override(micro.get_config(), words)
    assert config.model.lora is not None
    assert config.model.lora.rank == 4
    assert config.model.lora.layers == (0, 1)
    assert config.rewards.boxes.tau is None
    assert config.rollout.prompt_text == (32, 48)
    assert [source.path for source in config.data.train] == ["a", "b"]
    assert config.health.stop
    assert config.update.objective.clip_high == 0.28
