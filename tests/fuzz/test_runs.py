"""Damaged folders of runs: as `convert.py to-hf` exports them, and as `report.py` shows them."""

import json
import random
import shutil

import pytest

from support import damage, runs, small
from support.training_runs import TARGET, finished, start

from .conftest import assert_sound

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a checkpoint after each of two steps."""
    from lfpc_jax.data import layout

    folder = tmp_path_factory.mktemp("trained")
    small.hf_folder(folder / "hf")
    layout.write(folder / "set", [small.record(i, targets=(TARGET,)) for i in range(4)])
    finished(start(folder, folder / "run", "--steps", "2"))
    return folder / "run"


FILES = (
    "config.json",
    "origin.json",
    "assets/asking.json",
    "checkpoints/00000002/manifest.json",
    "checkpoints/00000002/facts.json",
    "checkpoints/00000001/manifest.json",
)


@pytest.mark.parametrize("seed", range(2))
def test_the_files_of_a_run_that_is_exported(trained, judged, tmp_path, seed):
    rng = random.Random(seed)
    for case in range(60):
        path = trained / FILES[case % len(FILES)]
        sound = path.read_bytes()
        path.write_bytes(damage.of_json(sound.decode(), rng))
        name = ("", "checkpoints/best", "checkpoints/00000002")[case // len(FILES) % 3]
        words = [trained / name, tmp_path / "out"]
        judged(f"{seed}:{case} {path.name} {name}", "to_hf", *words, within=trained)
        path.write_bytes(sound)
    assert_sound(judged)


def test_no_checkpoint_with_an_empty_manifest_counts(trained, judged, tmp_path):
    """`{}` lists no weights, so nothing is verified by it."""
    newest = trained / "checkpoints" / "00000002" / "manifest.json"
    sound = newest.read_bytes()
    newest.write_text("{}")
    outcome = judged("empty", "to_hf", trained, tmp_path / "out", within=trained)
    assert outcome.code == 0
    assert "is damaged" in outcome.errors
    chosen = trained / "checkpoints" / "00000002"
    outcome = judged("empty, by name", "to_hf", chosen, tmp_path / "out", within=trained)
    assert outcome.code == 1
    newest.write_bytes(sound)
    assert_sound(judged)


@pytest.mark.parametrize("seed", range(2))
def test_the_files_of_a_run_that_is_shown(judged, tmp_path, seed):
    """`report.py` shows what it can, and notes the rest."""
    rng = random.Random(seed)
    folder = runs.write(tmp_path / "run", {"step-000001": runs.groups()})
    archive = folder / "trajectories" / "step-000001.jsonl"
    evaluation = shutil.copytree(folder, tmp_path / "evaluation")
    (evaluation / "evaluation.json").write_text(
        json.dumps({"format": 1, "asked": {"rollouts": 2}, "benchmarks": {"x": {"digest": "a"}}})
    )
    old = archive.relative_to(folder)
    (evaluation / old).rename(evaluation / "trajectories" / "x-16-tool-p0.jsonl")
    line = {"part": "x-16-tool", "record": "wide", "answers": ["a", "b"], "right": [1, 0]}
    (evaluation / "scores.jsonl").write_text(json.dumps(line) + "\n")
    for name in ("results.json", "timing.json"):
        (evaluation / name).write_text(json.dumps({"judge": "", "x": {"16": {"tool": {}}}}))
    files = [folder / "config.json", folder / "metrics.jsonl", archive]
    files += [evaluation / f"{name}.json" for name in ("evaluation", "results", "timing")]
    files += [evaluation / "scores.jsonl", evaluation / "trajectories" / "x-16-tool-p0.jsonl"]
    for case in range(56):
        path = files[case % len(files)]
        sound = path.read_bytes()
        if path.suffix == ".json":
            path.write_bytes(damage.of_json(sound.decode(), rng))
        else:
            lines = sound.splitlines()
            place = rng.randrange(len(lines))
            lines[place] = damage.of_json(lines[place].decode(), rng).replace(b"\n", b" ")
            path.write_bytes(b"\n".join(lines) + b"\n")
        of = evaluation if evaluation in path.parents else folder
        judged(f"{seed}:{case} {path.name}", "page", of, "--out", tmp_path / "page.html", within=of)
        path.write_bytes(sound)
    assert_sound(judged)
