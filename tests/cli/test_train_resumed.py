"""Training runs that are interrupted: killed, told to stop, and resumed to the same bytes."""

import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from lfpc_jax.checkpoint import training
from lfpc_jax.cli import train
from lfpc_jax.run.folder import RunFolder
from support.left import facts, metrics, same
from support.training_runs import CONFIG, finished, start

pytestmark = pytest.mark.compiles


def killed(process, after):
    """Whether it still ran after so many seconds, when it is killed."""
    try:
        _, errors = process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    assert process.returncode == 0, errors.decode()[-3000:]
    return False


@pytest.mark.long
@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_at_any_moments_and_resumed_is_as_if_it_never_was(folder, timed, times):
    (whole, seconds), run = timed, folder / f"killed-{times}"
    seed = time.time_ns()
    first, *later = np.random.default_rng(seed).uniform(0, 1, times)
    print(f"seed {seed}: killed after {first:.3f}, {later} of a run's time")
    while True:
        begun = time.monotonic()
        if killed(start(folder, run), first * seconds):
            break
        seconds = time.monotonic() - begun  # the first run of all compiles, and takes longer
        shutil.rmtree(run)
    for share in later:
        killed(start(folder, run), share * seconds)
    finished(start(folder, run))
    same(run, whole)


def cut_short(run, step):
    """What there is of a step's checkpoint, Orbax's temporary folder or one without a manifest."""
    found = (run / "checkpoints").glob(f"{step:08d}*")
    return [path for path in found if not (path / "manifest.json").exists()]


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 3])
def test_killed_while_it_saves_and_resumed_is_as_if_it_never_was(folder, whole, step):
    run = folder / f"saving-{step}"
    process = start(folder, run)
    while True:
        assert process.poll() is None, "no save was seen before the run was over"
        if cut_short(run, step):
            process.send_signal(signal.SIGSTOP)  # so that it cannot be done before it is killed
            if cut_short(run, step):
                break
            process.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert cut_short(run, step)
    found = training.latest(RunFolder(run).checkpoints)
    assert (found.step if found else 0) == step - 1
    finished(start(folder, run))
    same(run, whole)


@pytest.mark.long
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_told_to_stop_it_saves_and_exits_with_0_and_resumes_exactly_without_its_first_model(
    folder, whole, number
):
    run, model = folder / f"terminated-{number}", folder / "lent"
    shutil.copytree(folder / "hf", model)
    flags = ["--model.path", str(model)]
    process = start(folder, run, "--checkpoint_every", "100", *flags)
    while not (run / "metrics.jsonl").exists() or not metrics(run):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    errors = finished(process)
    step = facts(run)["step"]
    assert step < 3, "it stopped before its end"
    assert f": saved; stopped after step {step} of 3" in errors
    assert "done with" not in errors
    shutil.rmtree(model)
    finished(start(folder, run, *flags))
    same(run, whole)


@pytest.mark.slow
def test_a_second_ctrl_c_ends_it_at_once_and_loses_no_checkpoint(folder, whole):
    run = folder / "twice"
    process = start(folder, run)
    while not (run / "checkpoints").exists():
        assert process.poll() is None
        time.sleep(0.005)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    errors = finished(process, 130)
    assert errors.endswith("stopped at once by a second Ctrl-C\n")
    finished(start(folder, run))
    same(run, whole)


@pytest.mark.long
def test_a_second_run_in_the_folder_is_refused_and_one_that_lost_it_writes_no_more(
    folder, monkeypatch, capsys
):
    """What another host's run does to one that was frozen for long is to remove its claim."""
    run = folder / "claimed"
    process = start(folder, run, "--checkpoint_every", "100", "--keep_best", "0")
    while not (run / "metrics.jsonl").exists() or not metrics(run):
        assert process.poll() is None
        time.sleep(0.005)
    monkeypatch.setenv("MICRO", str(folder))
    assert train.main(["--config", CONFIG, "--run", str(run)]) == 1
    said = capsys.readouterr().err
    assert f"error: {run}: is in use by `train.py --config {CONFIG} --run {run}" in said
    assert f"(process {process.pid} on " in said
    [claim] = (run / "lock").iterdir()
    claim.unlink()
    assert "that its claim was removed, and the folder now belongs to nobody" in finished(
        process, 1
    )
    assert not (run / "checkpoints").exists()
    assert ("train", 3) not in metrics(run)


@pytest.mark.long
def test_a_checkpoint_that_was_cut_short_is_not_taken(folder, whole):
    run = folder / "damaged"
    shutil.copytree(whole, run)
    newest = run / "checkpoints" / "00000003"
    biggest = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(biggest, biggest.stat().st_size - 1)
    errors = finished(start(folder, run))
    assert "is skipped" in errors
    assert "resumes after step 2" in errors
    same(run, whole)
    (run / "checkpoints" / "00000003" / "manifest.json").unlink()
    assert facts(run)["step"] == 2
