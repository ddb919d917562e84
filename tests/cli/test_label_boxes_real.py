"""The labelling command with a small real model as the target: killed at random, in two processes,
and trained on."""

import json
import random
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from lfpc_jax.cli import label_boxes, train
from lfpc_jax.data import layout
from lfpc_jax.data.pipeline import MixedSet
from lfpc_jax.run import training_data
from lfpc_jax.trajectory import Picture
from support import micro_boxes, small, small_boxes
from support.left import metrics
from support.processes import ROOT, coordinator_flags, environment

pytestmark = [pytest.mark.compiles, pytest.mark.usefixtures("lean")]

OUTPUTS = ("records.jsonl", "labels.jsonl", "report.json", "meta.json", "report.png", "sheet.png")


def contents(out):
    return {name: (out / name).read_bytes() for name in OUTPUTS}


def finished(process):
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()


FLAGS = ("--grid", 2, "--chunk", 2, "--target-image-tokens", 24, "--target-crop-tokens", 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small target, a small crop network, and four records with different answers, of which the
    last has nothing to crop."""
    folder = tmp_path_factory.mktemp("real")
    small.hf_folder(folder / "hf")
    records = [small.record(i, answer=("red", "blue", "word")[i]) for i in range(3)]
    layout.write(folder / "set", [*records, small.record(3, picture=Picture())])
    return folder


def label(folder, out, *more):
    flags = [folder / "set", out, "--target", folder / "hf", *FLAGS, *more]
    assert label_boxes.main(list(map(str, flags))) == 0
    return contents(out) | {"journal": (out / "journal-0.jsonl").read_bytes()}


@pytest.fixture(scope="module")
def labelled(folder):
    return label(folder, folder / "labels")


def test_a_real_target_is_asked(labelled):
    made = [json.loads(line) for line in labelled["labels.jsonl"].splitlines()]
    assert [one["id"] for one in made] == ["r0", "r1", "r2"]
    for one in made:
        assert one["likelihood"] >= one["whole"]
        assert -100 < one["without"] < 0
    target = json.loads(labelled["meta.json"])["about"]["labels"]["target"]
    named = {"weights", "assets", "presentation", "image_tokens", "crop_tokens", "prompt"}
    assert named <= target.keys()


@pytest.mark.slow
def test_with_its_journal_cut_it_resumes_to_the_same_bytes(folder, labelled, tmp_path):
    """As `test_label_boxes.py` shows of a rigged target, and `test_likelihood.py` of one question's
    values, in less time. Cut within the second line of the first chunk, so that the first is asked
    again, too."""
    journal = labelled["journal"]
    ends = [place for place, byte in enumerate(journal) if byte == 10]
    (tmp_path / "journal-0.jsonl").write_bytes(journal[: ends[1] + 60])
    assert label(folder, tmp_path) == labelled


def test_training_warns_of_labels_for_another_target(folder, labelled, tmp_path, monkeypatch):
    """Not of those for its own."""
    monkeypatch.setenv("MICRO", str(folder))
    parts = [MixedSet(str(folder / "labels"), [small.record(0)]), MixedSet(str(folder / "set"), [])]
    config = micro_boxes.get_config("accuracy")
    told = []
    monkeypatch.setattr(training_data.log, "warning", lambda form, *values: told.append(values))
    own = json.loads(labelled["meta.json"])["about"]["labels"]["target"]
    training_data.warn_of_other_labels(config, parts, own | {"answer_tokens": 8})
    training_data.warn_of_other_labels(config, parts, None)
    assert told == []
    training_data.warn_of_other_labels(config, parts, own | {"weights": "b"})
    [(name, doubt)] = told
    assert name == str(folder / "labels")
    assert f"another weights (was {own['weights']}, now b)" in doubt


@pytest.mark.slow
def test_a_crop_network_is_trained_on_labels(folder, labelled, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MICRO", str(folder))
    small_boxes.hf_folder(folder / "boxes")
    command = ["--config", f"{micro_boxes.__file__}:sft", "--run", str(tmp_path / "run"),
               "--data.train", str(folder / "labels"), "--data.validation", str(folder / "labels"),
               "--steps", "1", "--update.mini_batch", "4"]  # fmt: skip
    assert train.main(command) == 0
    assert "its boxes are the best for a target with another" not in capsys.readouterr().err
    step = metrics(tmp_path / "run")["train", 1]
    assert step["update/loss"] > 0
    assert step["reward/valid"] == step["crop/overlap"] == 1.0  # what is imitated, in hundredths
    assert step["crop/iou"] > 0.97


@pytest.mark.slow
def test_killed_at_random_moments_and_in_two_processes_it_gives_the_same_bytes(folder, tmp_path):
    def run(out, *more):
        command = [sys.executable, ROOT / "launch/label_boxes.py", folder / "set", out]
        flags = ["--target", folder / "hf", *FLAGS, "--cache", tmp_path / "cache", *more]
        return subprocess.Popen(
            list(map(str, command + flags)), env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    finished(run(tmp_path / "first"))  # compiles
    began = time.monotonic()
    finished(run(tmp_path / "whole"))
    took = time.monotonic() - began
    rng, kills = random.Random(), 0
    out = tmp_path / "out"
    while kills < 10 and not (out / "meta.json").exists():
        process = run(out)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.3, 1.0) * took)
        kills += process.poll() is None
        process.kill()
        process.communicate()
    assert kills > 0
    if not (out / "meta.json").exists():
        finished(run(out))
    assert contents(out) == contents(tmp_path / "whole") == contents(tmp_path / "first")
    flags = coordinator_flags()
    both = [run(tmp_path / "both", *flags, i) for i in range(2)]
    for process in both:
        finished(process)
    assert contents(tmp_path / "both") == contents(tmp_path / "whole")
