"""The command: our layout and the benchmarks' files, whole or not at all."""

import base64
import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest

from lfpc_jax.cli.synthesize import main
from lfpc_jax.data import benchmarks, layout
from lfpc_jax.data.audit import audit
from lfpc_jax.data.scene import EASY, WorldSettings
from lfpc_jax.data.world import World
from lfpc_jax.trajectory import Picture, Size

TINY = ["--size", "224", "--objects", "3", "5", "--object-side", "36", "52", "--shapes", "block"]


def size_of(encoded: bytes) -> Size:
    return PIL.Image.open(io.BytesIO(encoded)).size


def test_all_formats_in_one_go(tmp_path):
    out = tmp_path / "world"
    formats = ["--format", "layout", "hrbench", "vstar", "--table", "parquet"]
    assert main([str(out), "--count", "12", *TINY, "--cross-share", "0.5", *formats]) == 0
    assert len(audit(layout.read(out), name="world", max_share=0.0).records) == 12
    assert size_of((out / "contact.png").read_bytes()) == (1488, 12 * 286)
    assert json.loads((out / "world.json").read_text())["settings"]["size"] == [224, 224]
    check_hr_bench(out / "hrbench.tsv", 12)
    check_v_star(out / "vstar", 12)


def check_hr_bench(path, samples):
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == benchmarks.HR_BENCH_COLUMNS
    assert [int(row["index"]) for row in rows] == list(range(4 * samples))
    for place in range(0, len(rows), 4):
        cycles = rows[place : place + 4]
        assert [row["cycle_category"] for row in cycles] == ["0", "1", "2", "3"]
        assert sorted(row["answer"] for row in cycles) == ["A", "B", "C", "D"]
        assert len({row[row["answer"]] for row in cycles}) == 1
        assert len({row["image"] for row in cycles}) == 1
        assert len({cycles[0][letter] for letter in "ABCD"}) == 4
        assert cycles[1]["A"] == cycles[0]["B"]
    assert size_of(base64.b64decode(rows[0]["image"])) == (224, 224)
    assert {row["category"] for row in rows} == {"single", "cross"}


def check_v_star(folder, samples):
    found = 0
    for name, options, targets in (("direct_attributes", 4, 1), ("relative_position", 2, 2)):
        for path in sorted((folder / name).glob("*.json")):
            sample = json.loads(path.read_text())
            assert set(sample) == {"target_object", "bbox", "question", "options"}
            assert len(sample["options"]) == len(set(sample["options"])) == options
            assert len(sample["target_object"]) == len(sample["bbox"]) == targets
            assert all(thing in sample["question"] for thing in sample["target_object"])
            assert size_of(path.with_suffix(".jpg").read_bytes()) == (224, 224)
            for x, y, w, h in sample["bbox"]:
                assert 20 <= w == h <= 26
                assert 0 <= min(x, y) < max(x + w, y + h) <= 224
            found += 1
    assert found == samples


def test_v_star_puts_the_right_option_first(tmp_path):
    settings = WorldSettings(cross_share=0.0, single_options=(4, 4))
    entry = World(settings, 0, "train", 1)[0]
    benchmarks.write_v_star(tmp_path, [(entry, ("red block",))])
    (path,) = (tmp_path / "direct_attributes").glob("*.json")
    right = entry.options["ABCD".index(entry.answer)]
    assert json.loads(path.read_text())["options"][0] == right
    x1, y1, x2, y2 = entry.targets[0][0]
    assert json.loads(path.read_text())["bbox"] == [[x1, y1, x2 - x1, y2 - y1]]


def test_benchmarks_refuse_what_they_cannot_hold(tmp_path):
    settings = WorldSettings(cross_share=0.0, single_options=(3, 3))
    with pytest.raises(ValueError, match="3 options; HR-Bench needs"):
        benchmarks.write_hr_bench(tmp_path / "a.tsv", World(settings, 0, "train", 1))


def test_out_is_replaced_only_when_asked_and_never_half_written(tmp_path, capsys):
    out = tmp_path / "world"
    small = [str(out), "--count", "2", *TINY]
    assert main(small) == 0
    before = (out / "records.jsonl").read_bytes()
    assert main(small) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*small, "--seed", "1", "--photographs", str(tmp_path / "no"), "--overwrite"]) == 1
    assert (out / "records.jsonl").read_bytes() == before
    assert main([*small, "--seed", "1", "--overwrite"]) == 0
    assert (out / "records.jsonl").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_easy_begins_elsewhere_and_other_knobs_still_turn(tmp_path):
    out = tmp_path / "easy"
    knobs = ["--world", "easy", "--size", "224", "--classes", "2"]
    assert main([str(out), "--count", "6", *knobs]) == 0
    settings = replace(EASY, size=(224, 224), classes=2)
    found = audit(layout.read(out), name="easy", max_share=0.0).records
    expected = list(World(settings, 0, "train", 6))
    assert [replace(entry, picture=Picture()) for entry in found] == [
        replace(entry, picture=Picture()) for entry in expected
    ]
    assert [Path(entry.picture.path or "").read_bytes() for entry in found] == [
        entry.picture.data for entry in expected
    ]
    assert size_of((out / "contact.png").read_bytes()) == (992, 6 * 286)


@pytest.mark.seconds
def test_workers_change_nothing(tmp_path):
    command = ["--count", "6", *TINY]
    assert main([str(tmp_path / "one"), *command]) == 0
    assert main([str(tmp_path / "two"), *command, "--workers", "2"]) == 0
    for path in sorted((tmp_path / "one").rglob("*.*")):
        if path.is_file():
            other = tmp_path / "two" / path.relative_to(tmp_path / "one")
            assert other.read_bytes() == path.read_bytes(), path


def test_nested_boxes_can_be_drawn_around_marks(tmp_path, capsys):
    usual, tight = tmp_path / "usual", tmp_path / "tight"
    asked = ["--world", "micro", "--count", "8"]
    assert main([str(usual), *asked]) == 0
    assert main([str(tight), *asked, "--nested", "1", "1.5"]) == 0
    pairs = [*zip(layout.read(usual), layout.read(tight), strict=True)]
    assert [before.id for before, _ in pairs] == [after.id for _, after in pairs]
    inside = 0
    for before, after in pairs:
        for (mark, *_), (same, wider) in zip(before.targets, after.targets, strict=True):
            assert mark == same
            x1, _, x2, _ = wider
            assert 0 <= x1 <= mark[0] < mark[2] <= x2 <= 224
            if 0 < x1 and x2 < 224:
                assert x2 - x1 == pytest.approx(1.5 * (mark[2] - mark[0]), abs=2)
                inside += 1
    assert inside >= 4
    for wrong in (["1.3", "1"], ["0.5"], ["1", "nan"], ["nan"]):
        assert main([str(tmp_path / "no"), *asked, "--nested", *wrong]) == 1
        assert "must ascend and begin at 1" in capsys.readouterr().err
