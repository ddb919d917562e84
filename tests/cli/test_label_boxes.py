"""The labelling command: killed and resumed, in two processes, stopped, made again by another rule,
refused where something differs; and what it writes."""

import io
import json
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace

import PIL.Image
import pytest

from lfpc_jax.cli import label_boxes
from lfpc_jax.cropvlm.grid import in_pixels, widened
from lfpc_jax.data import layout
from lfpc_jax.processing.geometry import Box
from support import rigged_labels
from support.processes import coordinator_flags, environment
from support.rigged_labels import CELLS, GRID, SIZE, RiggedTarget, best_of

OUTPUTS = ("records.jsonl", "labels.jsonl", "report.json", "meta.json", "report.png", "sheet.png")


def start(data, out, *more):
    command = [sys.executable, "-m", "support.rigged_labels", str(data), str(out), *more]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process):
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    return printed.decode()


def labelled_here(data, out):
    """The same command in this process, which takes less time."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(label_boxes, "_target", None)  # `main` sets it
        assert rigged_labels.main(str(data), str(out)) == 0
    return printed.getvalue()


def contents(out):
    return {name: (out / name).read_bytes() for name in OUTPUTS}


def lines(out, process=0):
    journal = out / f"journal-{process}.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for(process, out, count):
    deadline = time.monotonic() + 240
    while lines(out) < count:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    data = rigged_labels.make_set(folder / "set")
    assert "39 records, 1 lost, 0 unsuited" in labelled_here(data, folder / "out")
    return data, folder / "out"


@pytest.mark.seconds
def test_what_it_writes(uninterrupted):
    data, out = uninterrupted
    before = {record.id: record for record in layout.read(data)}
    made = list(layout.read(out))
    assert [record.id for record in made] == [f"r{i}" for i in range(40) if i != 5]
    for record in made:
        old = before[record.id]
        for name in ("question", "answer", "references", "metric", "longest_side", "picture"):
            assert getattr(record, name) == getattr(old, name)
        number = 0 if record.id == "r3" else best_of(old)  # r3 likes all as much: the first cell
        best = in_pixels(CELLS[number], GRID, SIZE)
        assert record.targets == ((widened(best, SIZE, 1 / 3, seed=0, record=record.id),),)
    meta = layout.read_meta(out)
    assert meta["losses"] == ["r5: unreadable picture: its last rows are missing"]
    about = meta["about"]
    assert (about["labelled from"], about["by"]) == (str(data), "rigged")
    assert about["labels"]["target"] == {"weights": "rigged", "presentation": "both"}
    rule = {"within": 1e-4, "ties": "smallest", "noise": 1.0, "seed": 0}
    assert about["labels"]["rule"] == rule | {"factors": [45.0, 10.0, 4.0, 2.0, 1.0]}
    assert (about["labels"]["boxes"], about["labels"]["grid"]) == ("grid", GRID)
    report = json.loads((out / "report.json").read_text())
    assert report["records"] == 39
    assert report["ties"] == {"records": 1, "boxes": {"1": 38, "36": 1}}
    assert report["targets"]["records"] == 10
    timing = json.loads((out / "timing.json").read_text())
    assert timing["records"] == 40
    assert timing["a_record"] >= 0.03
    for name in ("report.png", "sheet.png"):
        with PIL.Image.open(out / name) as picture:
            assert picture.width > 700


@pytest.mark.long
def test_stopped_and_killed_and_run_again_gives_the_same_bytes(uninterrupted, tmp_path):
    """SIGTERM keeps what it has and exits with 0. The kill falls on the last chunk, or on the
    writing of the set."""
    data, expected = uninterrupted
    out = tmp_path / "out"
    process = start(data, out)
    wait_for(process, out, 4)
    process.send_signal(signal.SIGTERM)
    assert "stopped; rerun the same command to resume" in finished(process)
    assert 4 <= lines(out) < 41
    assert lines(out) % 3 == 1  # whole chunks
    process = start(data, out)
    wait_for(process, out, 38)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "meta.json").exists()
    labelled_here(data, out)
    assert contents(out) == contents(expected)
    assert (out / "journal-0.jsonl").read_bytes() == (expected / "journal-0.jsonl").read_bytes()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(uninterrupted, tmp_path):
    data, expected = uninterrupted
    out = tmp_path / "out"
    flags = coordinator_flags()
    for process in [start(data, out, *flags, str(i)) for i in range(2)]:
        finished(process)
    assert contents(out) == contents(expected)
    assert [lines(out, process) for process in range(2)] == [1 + 21, 1 + 19]  # 14 chunks, one of 1


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments, target=None):
        asked = target or RiggedTarget()
        monkeypatch.setattr(label_boxes, "_target", lambda *_: asked)
        code = label_boxes.main(list(map(str, arguments)))
        printed = capsys.readouterr()
        return code, printed.out if code == 0 else printed.err

    return run


GRID_FLAGS = ("--target", "rigged", "--grid", GRID, "--chunk", 3, "--max-lost", 0.1)


@pytest.mark.seconds
def test_labels_are_made_again_by_another_rule_without_the_target(uninterrupted, tmp_path, run):
    data, old = uninterrupted
    again = tmp_path / "again"
    code, printed = run(data, again, "--again", old, "--noise", 0, "--ties", "largest",
                        "--within", 8.5, "--max-lost", 0.1)  # fmt: skip
    assert code == 0, printed
    made = {record.id: record.targets[0][0] for record in layout.read(again)}
    assert made["r3"] == (0, 0, 200, 100)
    labels = [json.loads(line) for line in (again / "labels.jsonl").read_text().splitlines()]
    assert all(label["box"] == label["best"] for label in labels)
    assert sum(label["ties"] > 1 for label in labels) == 39
    about = layout.read_meta(again)["about"]
    assert about["likelihoods"] == str(old)
    assert about["labels"]["target"] == {"weights": "rigged", "presentation": "both"}
    assert about["labels"]["rule"]["within"] == 8.5
    same = tmp_path / "same"
    assert run(data, same, "--again", old, "--max-lost", 0.1)[0] == 0
    for name in ("records.jsonl", "labels.jsonl", "report.json", "report.png"):
        assert (same / name).read_bytes() == (old / name).read_bytes()
    other = tmp_path / "other"
    assert run(data, other, "--again", old, "--seed", 1, "--max-lost", 0.1)[0] == 0
    assert (other / "records.jsonl").read_bytes() != (old / "records.jsonl").read_bytes()


@pytest.mark.seconds
def test_what_differs_is_refused_by_name(tmp_path, run):
    data = rigged_labels.make_set(tmp_path / "set", 4)
    out = tmp_path / "out"
    assert run(data, out, *GRID_FLAGS)[0] == 0
    code, error = run(data, out, *GRID_FLAGS)
    assert (code, "holds a finished set of labels" in error) == (1, True)
    (out / "meta.json").unlink()
    assert run(data, out, *GRID_FLAGS)[0] == 0  # from the journal
    (out / "meta.json").unlink()
    _, error = run(data, out, *GRID_FLAGS, "--grid", 2)
    assert "begun with another grid (was 3, now 2); resume" in error
    other = RiggedTarget(identity={"weights": "other", "presentation": "both"})
    _, error = run(data, out, *GRID_FLAGS, target=other)
    assert "begun with another target's weights (was rigged, now other); resume" in error
    fewer = rigged_labels.make_set(tmp_path / "fewer", 3)
    _, error = run(fewer, out, *GRID_FLAGS)
    assert "begun with another records (was " in error
    _, error = run(fewer, tmp_path / "again", "--again", out)
    assert "its likelihoods are of other records than these" in error
    _, error = run(data, tmp_path / "again", "--again", out, "--grid", 5)
    assert "--grid 5: the likelihoods of" in error
    assert "a grid of 3 x 3; leave --grid out" in error


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ((), "give the --target that is to be asked, or --again"),
        (("--target", "a", "--again", "b"), "and not both"),
        (("--boxes", "truth", "--target", "a"), "--boxes truth asks no target: leave out --target"),
        (("--target-url", "http://h/v1", "--target-model", "m"), "a server does not tell"),
        (("--target", "a", "--presentation", "image"), "shows no crop"),
        (("--boxes", "truth", "--noise", -1), "must not be negative"),
    ],
)
def test_flags_that_cannot_be_are_refused(tmp_path, run, flags, told):
    data = rigged_labels.make_set(tmp_path / "set", 2)
    code, error = run(data, tmp_path / "out", *flags)
    assert code == 1
    assert told in error


@pytest.mark.seconds
def test_the_sets_own_targets_as_labels(tmp_path, run):
    """Every fourth has one; the others are left out and counted. Their targets cover as much."""
    data = rigged_labels.make_set(tmp_path / "set", 8)
    layout.write(tmp_path / "none", [replace(r, targets=()) for r in layout.read(data)])
    _, error = run(tmp_path / "none", tmp_path / "nothing", "--boxes", "outside")
    assert "no record has a label (8 no target); its records need targets" in error
    code, printed = run(data, tmp_path / "truth", "--boxes", "truth")
    assert code == 0, printed
    assert "2 records, 0 lost, 6 unsuited" in printed
    made = list(layout.read(tmp_path / "truth"))
    assert [record.id for record in made] == ["r0", "r4"]
    assert {record.targets for record in made} == {(((70, 40, 90, 60),),)}
    assert layout.read_meta(tmp_path / "truth")["about"]["labels"]["boxes"] == "truth"
    assert run(data, tmp_path / "outside", "--boxes", "outside")[0] == 0
    side = 20 * 45**0.5
    for record in layout.read(tmp_path / "outside"):
        assert record.targets[0][0] == pytest.approx((80 - side / 2, 0, 80 + side / 2, 100))
    report = json.loads((tmp_path / "outside" / "report.json").read_text())
    assert report["targets"]["label"]["recall"] == 1
    assert report["gain"] == {"whole": None, "without": None}


@pytest.mark.seconds
def test_a_selections_provenance_goes_along(tmp_path, run):
    """Training still compares its budget."""
    records = rigged_labels.records(2, tmp_path / "pictures")
    selection = {"strategy": "answer", "image_tokens": 64}
    about = {"selected from": ["x"], "selection": selection}
    layout.write(tmp_path / "set", records, about=about)
    assert run(tmp_path / "set", tmp_path / "out", *GRID_FLAGS)[0] == 0
    kept = layout.read_meta(tmp_path / "out")["about"]
    assert {name: kept[name] for name in about} == about


def test_a_target_that_reads_no_crop_is_warned_of(tmp_path, monkeypatch, capsys):
    data = rigged_labels.make_set(tmp_path / "set", 2)
    blind = RiggedTarget(tied=("r0", "r1"))
    monkeypatch.setattr(label_boxes, "_target", lambda *_: blind)
    flags = [str(flag) for flag in GRID_FLAGS]
    assert label_boxes.main([str(data), str(tmp_path / "out"), *flags]) == 0
    told = capsys.readouterr().err
    assert "no likelier than with the whole image as the crop (0.000 nats" in told
    assert "no likelier than with no crop" in told
    box = Box(*next(iter(layout.read(tmp_path / "out"))).targets[0][0])
    assert box == widened(in_pixels(CELLS[0], GRID, SIZE), SIZE, 1 / 3, seed=0, record="r0")
