"""Crop networks trained as a user trains them: with labels, with both rewards, killed, with another
target, and with a server that is gone."""

import re
import shutil
import subprocess
import time

import numpy as np
import pytest

from lfpc_jax.cli import replay, train
from lfpc_jax.data import layout
from lfpc_jax.rollout.archive import Archive
from support import metrics_page, micro_boxes, small, small_boxes
from support.judge_server import hang_up, late, raw, say, status
from support.left import facts, metrics, near, same
from support.processes import coordinator_flags
from support.target_server import TargetServer
from support.training_runs import TARGET, finished, start

pytestmark = pytest.mark.compiles

CONFIG = micro_boxes.__file__


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("boxes")
    small.hf_folder(path / "hf")
    small_boxes.hf_folder(path / "boxes")
    layout.write(path / "set", [small.record(i, targets=(TARGET,)) for i in range(6)])
    return path


@pytest.fixture(scope="module")
def timed(folder):
    """Three steps of the likelihood's reward, with a validation, and their seconds."""
    run, begun = folder / "whole", time.monotonic()
    finished(start(folder, run, config=f"{CONFIG}:likelihood"))
    return run, time.monotonic() - begun


@pytest.fixture(scope="module")
def whole(timed):
    return timed[0]


@pytest.mark.long
def test_a_run_with_a_target_leaves_what_it_says(whole):
    found = metrics(whole)
    assert list(found) == [("train", 1), ("validation", 2), ("train", 2), ("validation", 3),
                           ("train", 3)]  # fmt: skip
    written = {name for values in found.values() for name in values} - {"kind", "step"}
    assert written <= metrics_page.of_runs()
    first, checked = found["train", 1], found["validation", 2]
    assert "reward/accuracy" not in first, "nobody asked for answers"
    assert "reward/unjudged" not in first
    assert (first["reward/masked"], first["target/questions"]) == (0, 4)
    assert first["reward/likelihood"] < 0 < first["reward/valid"] <= 1
    both = first["time/proposer"] + first["time/target"]
    assert 0.5 * first["time/rollout"] < both <= first["time/rollout"]
    assert {"validation/accuracy", "validation/blank_accuracy", "validation/likelihood",
            "validation/iou", "validation/gap"} <= checked.keys()  # fmt: skip
    likelihoods = set()
    for group in Archive(whole / "trajectories").read("step-000001"):
        for trajectory, rewards in zip(group.trajectories, group.rewards, strict=True):
            valid = float(trajectory.end == "proposed")
            assert rewards["total"] == pytest.approx(0.1 * trajectory.likelihood + valid)
            assert (trajectory.answer, rewards["accuracy"]) == (None, None)
            likelihoods.add(trajectory.likelihood)
    assert len(likelihoods) > 4
    assert facts(whole)["target"]["weights"]


@pytest.mark.long
def test_its_episodes_replay_without_a_difference(whole, capsys):
    assert replay.main([str(whole), "--tolerance", "1e-4"]) == 0
    assert "step-000001" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_at_random_and_resumed_leaves_the_same_bytes(folder, timed):
    (whole, seconds), run = timed, folder / "killed"
    seed = time.time_ns()
    print(f"seed {seed}")
    for share in np.random.default_rng(seed).uniform(0.2, 1, 3):
        process = start(folder, run, config=f"{CONFIG}:likelihood")
        try:
            process.communicate(timeout=share * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    finished(start(folder, run, config=f"{CONFIG}:likelihood"))
    same(run, whole)


@pytest.mark.slow
def test_two_processes_are_one(folder, whole):
    run, flags = folder / "two", coordinator_flags()
    both = [start(folder, run, *flags, str(i), config=f"{CONFIG}:likelihood") for i in range(2)]
    for process in both:
        finished(process)
    near(run, whole)
    assert facts(run)["target"] == facts(whole)["target"]
    for at, values in metrics(whole).items():
        for name in ("reward/total", "reward/likelihood", "target/distinct", "validation/accuracy"):
            assert metrics(run)[at].get(name) == pytest.approx(values.get(name)), (at, name)


@pytest.mark.long
def test_another_target_under_the_same_name_is_refused_on_resume(
    folder, whole, monkeypatch, capsys
):
    monkeypatch.setenv("MICRO", str(folder))
    run = folder / "other-target"
    shutil.copytree(whole, run)
    flags = ["--config", f"{CONFIG}:likelihood", "--run", str(run)]
    assert train.main([*flags, "--target.path", str(folder / "boxes")]) == 1
    said = capsys.readouterr().err
    assert "target: is another than when the run began, by its weights, assets" in said


@pytest.mark.slow
def test_labels_are_imitated_and_boxes_alone_validated(folder):
    """What is imitated is tested in `tests/cropvlm/test_episodes.py`, and validations without a
    target model in `tests/run/test_validation_boxes.py`, in less time."""
    run = folder / "alone"
    finished(start(folder, run, config=f"{CONFIG}:alone"))
    found = metrics(run)
    losses = [values["update/loss"] for (kind, _), values in found.items() if kind == "train"]
    assert losses[-1] < losses[0] - 1
    checked = found["validation", 3]
    assert {"validation/iou", "validation/overlap", "validation/rate"} <= checked.keys()
    assert not {"validation/accuracy", "validation/blank_accuracy", "validation/gap"} & set(checked)
    for group in Archive(run / "trajectories").read("step-000001"):
        [crop] = [turn.crop for turn in group.trajectories[0].turns]
        assert crop.box == pytest.approx(TARGET[0], abs=5)


@pytest.mark.slow
def test_a_server_that_is_gone_slow_or_wrong_stops_the_run_before_an_update(folder):
    """It answers the check, and then nothing that is an answer; then it is mended."""
    run, mended = folder / "gone", []
    failures = (status(503), raw(b"nonsense"), hang_up, late(8, say("red")))

    def behave(index, asked):
        return say("red") if mended or index == 0 else failures[index % 4]

    with TargetServer(behave) as server:
        flags = ["--target.path", "", "--target.url", server.url, "--target.model", "m",
                 "--target.cache", str(folder / "cache"), "--target.patience.attempts", "1",
                 "--target.patience.reply_seconds", "4"]  # fmt: skip
        errors = finished(start(folder, run, *flags, config=f"{CONFIG}:accuracy"), code=3)
        assert "100.0% of the episodes of step 1 have no reward" in errors
        assert "target 100.0%" in errors
        causes = set(re.findall(r"could not be scored \(target: ([^;]*); told once", errors))
        assert "HTTP 503" in causes
        assert len(causes) >= 3, causes
        assert facts(run)["step"] == 0
        assert not metrics(run)
        mended.append(True)
        finished(start(folder, run, *flags, config=f"{CONFIG}:accuracy"))
    assert facts(run)["step"] == 3
    first = metrics(run)["train", 1]
    assert (first["reward/masked"], first["reward/accuracy"]) == (0, 1)
    assert metrics(run)["validation", 3]["validation/accuracy"] == 1
