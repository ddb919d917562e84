"""What an earlier version left is read as it was, and goes on.

`old_run.tar.xz` was made on 2026-11-29 by the version before `run/` was a room: a training run of
two steps (LoRA on a tiny model whose weights are multiples of 1/64, so that they compress), its
config file and data, an evaluation of it, a comparison, and in `expected.json` what that version
read from them and what its third step came to.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest

from lfpc_jax.cli import compare, evaluate, report
from lfpc_jax.data import layout
from lfpc_jax.data.digest import digest
from lfpc_jax.rollout.archive import Archive
from lfpc_jax.run.folder import RunFolder, unfinished
from lfpc_jax.run.models import identity_of, load_model
from support import stacked
from support.left import metrics
from support.processes import environment

pytestmark = pytest.mark.compiles

ROOT = Path(__file__).parents[2]
ASKED = [
    *("--model", "run", "--data", "set", "--image-tokens", "16", "--crop-tokens", "16"),
    *("--diagnose", "blank", "--slots", "8", "--temperature", "1"),
]


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The working folder; the paths in its files are relative."""
    with tarfile.open(Path(__file__).with_name("old_run.tar.xz")) as tar:
        tar.extractall(tmp_path)
    monkeypatch.chdir(tmp_path / "old_run")
    return tmp_path / "old_run"


@pytest.fixture
def expected(old):
    return json.loads((old / "expected.json").read_text())


def plain(value):
    """As `expected.json` has it: arrays and bytes by a digest."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        whole = f"{value.dtype}{value.shape!r}".encode() + value.tobytes()
        return hashlib.sha256(whole).hexdigest()[:16]
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def test_an_archive_reads_as_it_was_written(old, expected):
    archive = Archive(old / "run/trajectories")
    assert archive.parts() == list(expected["parts"])
    assert len(archive.parts()) == 3
    crops = 0
    for part, groups in expected["parts"].items():
        read = list(archive.read(part))
        assert len(read) == len(groups) == 2
        for group, was in zip(read, groups):
            assert plain(group.record) == was["record"] | {"references": [], "metric": "rules"}
            since = {"likelihood": None, "unanswered": "", "versions": []}
            assert plain(group.trajectories) == [entry | since for entry in was["trajectories"]]
            assert plain(group.rewards) == was["rewards"]
            crops += sum(turn.crop is not None for t in group.trajectories for turn in t.turns)
    assert crops > 5


def test_the_same_records_are_the_same_bytes(old, tmp_path):
    """In a digest, an archive and a set: what records hold since then is not written for them."""
    asked = json.loads((old / "evaluated/evaluation.json").read_text())["benchmarks"]["set"]
    records = list(layout.read(old / "set"))
    assert digest(records) == asked["digest"]
    layout.write(tmp_path / "again", records)
    before, again = (
        lines(folder / "records.jsonl") for folder in (old / "set", tmp_path / "again")
    )
    assert [list(line) for line in again] == [list(line) for line in before]
    archive, copied = Archive(old / "run/trajectories"), Archive(tmp_path / "archive")
    for part in archive.parts():
        copied.append(part, archive.read(part))
        was, now = (lines(one.folder / f"{part}.jsonl") for one in (archive, copied))
        records = [[json.dumps(line["record"]) for line in entries] for entries in (was, now)]
        assert records[0] == records[1]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_run_is_a_model(old, expected):
    """LoRA's factors merged in, and the same model as before to whoever noted which it was."""
    loaded = load_model(old / "run", dtype="float32", mesh=None)
    assert loaded.step == expected["step"] == 2
    assert identity_of(old / "run") == loaded.identity == expected["identity"]
    leaves = jax.tree_util.tree_leaves_with_path(loaded.params)
    sizes = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    assert sizes.keys() == expected["parameters"].keys()
    for name, (shape, total) in expected["parameters"].items():
        assert list(sizes[name].shape) == shape
        assert np.abs(np.asarray(sizes[name], np.float64)).sum() == pytest.approx(total, rel=1e-6)
    run = RunFolder(old / "run")
    assert run.trainable.lora is not None
    assert run.trainable.lora.rank == 2
    assert run.asking.crop_tokens == 16
    assert run.judged_by == unfinished(old / "run") == ""


@pytest.mark.long
def test_training_resumes_as_the_earlier_version_did(old, expected):
    """From its own config file, which imports by the names of then."""
    words = ["--config", "own.py", "--run", "run", "--steps", "3"]
    command = [sys.executable, stacked.__file__, str(ROOT / "launch" / "train.py"), *words]
    done = subprocess.run(command, env=environment(), cwd=old, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "own.py imports modules by former names: lfpc_jax.config is now" in done.stderr
    assert "run resumes after step 2" in done.stderr
    found = metrics(old / "run")
    assert [step for kind, step in found if kind == "train"] == [1, 2, 3]
    third = found["train", 3]
    for name, value in expected["resumed"].items():
        assert third[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_an_evaluation_goes_on_without_asking_again(old, monkeypatch, capsys):
    monkeypatch.setattr(evaluate.Engines, "engine", lambda *_: pytest.fail("asked again"))
    before = {path: path.read_bytes() for path in (old / "evaluated").rglob("*.jsonl")}
    results = results_of(old)
    assert evaluate.main(["evaluated", *ASKED]) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert results_of(old) == results
    assert evaluate.main(["evaluated", "--rescore"]) == 0
    assert results_of(old) == results
    assert evaluate.main(["evaluated", *ASKED, "--seed", "1"]) == 1
    assert "seed" in capsys.readouterr().err


def results_of(old):
    """Without the folder of the model, which is another now; its identity is among them."""
    found = json.loads((old / "evaluated/results.json").read_text())
    assert found["asked"].pop("model").endswith("/run")
    return found


def test_a_comparison_comes_out_as_before(old):
    words = ["compared", "--arm", "run", "evaluated", "--change", "calls", "run", "run"]
    before = json.loads((old / "compared/comparison.json").read_text())
    assert compare.main(words) == 0
    now = json.loads((old / "compared/comparison.json").read_text())
    for budget in now.values():
        for arm in budget["arms"].values():
            arm.pop("full")  # a measure that is younger
    assert now == before


@pytest.mark.long
def test_a_report_shows_the_run_and_the_evaluation(old, expected):
    assert report.main(["run", "evaluated", "--out", "report.html"]) == 0
    page = (old / "report.html").read_text()
    assert len(page) > 100_000
    for group in expected["parts"]["step-000002"]:
        assert group["record"]["question"] in page
