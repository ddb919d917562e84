"""HR-Bench and V* from files of their exact published formats, made here."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lfpc_jax.data import benchmarks, hr_bench, v_star
from lfpc_jax.data.audit import audit
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.data.scene import WorldSettings
from lfpc_jax.data.world import World, for_hr_bench, for_v_star
from lfpc_jax.evaluation.benchmark import kind_of, open_benchmark
from lfpc_jax.trajectory import Picture, Record
from support.benchmark_files import HEAD, jpeg, rows, v_star_folder, write_tsv


def test_hr_bench_tsv(tmp_path):
    path = write_tsv(tmp_path / "hr_bench_8k.tsv", rows())
    found = list(hr_bench.read(path, tmp_path / "pictures"))
    assert len(found) == 8
    second = found[1]
    assert isinstance(second, Record)
    assert second.id == "hr_bench_8k/1@1"
    assert second.question == "What is\t0?"
    assert (second.answer, second.category) == ("D", "single")
    assert second.options == ("blue", 'a "quoted", one', "line\nbreak", "red")
    assert [hr_bench.cycle_of(one) for one in found] == [*"0123", *"0123"]
    assert len({hr_bench.sample_of(one) for one in found}) == 2
    assert hr_bench.sample_of(found[0]) == hr_bench.sample_of(found[3])
    moved = Picture(f"elsewhere/{Path(found[3].picture.path).name}")  # where an evaluation went on
    assert hr_bench.sample_of(found[0]) == hr_bench.sample_of(replace(found[3], picture=moved))
    # each picture once, as the file that it was
    files = sorted((tmp_path / "pictures").iterdir())
    assert len(files) == 2
    assert {file.read_bytes() for file in files} == {jpeg(0), jpeg(1)}
    assert second.picture.data is None
    assert len(audit(found, name="hr", max_share=0.0).records) == 8


def test_hr_bench_parquet_gives_the_same(tmp_path):
    tsv = write_tsv(tmp_path / "x.tsv", rows())
    table = [dict(zip(HEAD, row)) for row in rows()]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "x.parquet")
    folder = tmp_path / "pictures"
    assert list(hr_bench.read(tmp_path / "x.parquet", folder)) == list(hr_bench.read(tsv, folder))


def test_hr_bench_rows_may_refer_to_the_image_of_another(tmp_path):
    made = rows(1)
    for row in made[1:]:
        row[-1] = "0"
    made.append([4, "q", "A", "single", *"abcd", 0, "77"])
    *found, lost = hr_bench.read(write_tsv(tmp_path / "x.tsv", made), tmp_path / "pictures")
    assert len({one.picture for one in found}) == 1
    assert lost == Rejected(
        "x/4@0", "missing picture", "refers to row '77', which has none before it"
    )


def test_hr_bench_faults_are_named_and_the_rest_is_read(tmp_path, caplog):
    made = rows(1)
    made[1] = made[1][:5]
    made[2][-1] = "!" * 100
    found = list(hr_bench.read(write_tsv(tmp_path / "x.tsv", made), tmp_path / "pictures"))
    assert [type(one) for one in found] == [Record, Rejected, Rejected, Record]
    assert "nothing in ['B', 'C', 'D', 'cycle_category', 'image']" in found[1].detail
    assert (found[2].reason, found[2].record) == ("unreadable picture", "x/2@2")
    wrong = [name if name != "cycle_category" else "cycle" for name in HEAD]
    path = write_tsv(tmp_path / "wrong.tsv", rows(1), wrong)
    with pytest.raises(
        ValueError, match=r"lacks the columns \['cycle_category'\] and has \['cycle'\]"
    ):
        list(hr_bench.read(path, tmp_path / "pictures"))
    more = write_tsv(tmp_path / "more.tsv", [[*row, "x"] for row in rows(1)], [*HEAD, "source"])
    assert len(list(hr_bench.read(more, tmp_path / "pictures"))) == 4
    assert "the columns ['source'] are not known" in caplog.text
    table = pyarrow.Table.from_pylist([{"index": 0, "image": ""}])
    pyarrow.parquet.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="lacks the columns \\['question', 'answer'"):
        list(hr_bench.read(tmp_path / "bad.parquet", tmp_path / "pictures"))


def test_v_star_folders(tmp_path):
    found = list(v_star.read_folders(v_star_folder(tmp_path / "v"), seed=0))
    assert [one.id for one in found] == [
        *(f"direct_attributes/sa_{i}" for i in range(3)),
        *(f"relative_position/sa_{i}" for i in range(2)),
    ]
    for one in found:  # whatever the order, the letter is that of the published first option
        right = one.options["ABCD".index(one.answer)]
        assert right == ("rubber" if one.category == "direct_attributes" else "left")
        assert sorted(one.options) == sorted(set(one.options))
    assert found[0].targets == (((10.0, 20.0, 40.0, 30.0),),)
    # 60 + 9 and 40 + 9 reach out of 64 x 48
    assert found[3].targets == (((0.0, 0.0, 5.0, 5.0),), ((60.0, 40.0, 64.0, 48.0),))
    assert len(audit(found, name="v", max_share=0.0).records) == 5


def test_v_star_letters_are_shuffled_by_the_seed_and_evenly(tmp_path):
    folder = v_star_folder(tmp_path / "v", attributes=120)
    first, again, other = (
        [one.answer for one in v_star.read_folders(folder, seed=seed)][:120] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    # 30 of each letter are expected, with a standard deviation of 4.7
    assert all(15 < first.count(letter) < 45 for letter in "ABCD")


def test_v_star_faults(tmp_path, caplog):
    folder = v_star_folder(tmp_path / "v", attributes=5)
    one, two, three, four, five = sorted((folder / "direct_attributes").glob("*.json"))
    one.write_text("{")
    sample = json.loads(two.read_text())
    two.write_text(json.dumps({"option" if k == "options" else k: v for k, v in sample.items()}))
    three.with_suffix(".jpg").unlink()
    four.write_text(json.dumps(sample | {"bbox": [[100, 100, 5, 5]]}))
    for path in (five, *(folder / "relative_position").glob("*.json")):
        path.write_text(json.dumps(sample | {"source": "x"}))
    found = list(v_star.read_folders(folder, seed=0))
    lost = [entry for entry in found if isinstance(entry, Rejected)]
    assert [entry.reason for entry in lost] == [
        "malformed row", "malformed row", "missing picture", "box outside picture"
    ]  # fmt: skip
    assert "lacks the columns ['options'] and has ['option']" in lost[1].detail
    assert caplog.text.count("direct_attributes: the columns ['source'] are not known") == 1
    assert caplog.text.count("relative_position: the columns ['source'] are not known") == 1
    with pytest.raises(ValueError, match="no folder direct_attributes"):
        list(v_star.read_folders(tmp_path, seed=0))


def test_v_star_list(tmp_path):
    text = (
        "What is the material of the glove?\n(A) rubber\n(B) cotton\n(C) kevlar\n(D) leather\n"
        "Answer with the option's letter from the given choices directly."
    )
    entry = {
        "image": "direct_attributes/sa_4690.jpg",
        "text": text,
        "category": "direct_attributes",
        "question_id": 0,
        "label": "A",
    }
    free = entry | {"text": "Which letter is on the box?", "question_id": 1, "label": "K"}
    lines = [json.dumps(entry), "", json.dumps(free), "{cut", json.dumps({"text": "x"})]
    (tmp_path / "test_questions.jsonl").write_text("\n".join(lines))
    (tmp_path / "direct_attributes").mkdir()
    (tmp_path / "direct_attributes" / "sa_4690.jpg").write_bytes(jpeg())
    found = list(v_star.read_list(tmp_path / "test_questions.jsonl"))
    assert found[0] == Record(
        id="test_questions/0",
        question="What is the material of the glove?",
        answer="A",
        picture=Picture(path=str(tmp_path / "direct_attributes/sa_4690.jpg")),
        options=("rubber", "cotton", "kevlar", "leather"),
        dataset="v_star",
        category="direct_attributes",
    )
    assert (found[1].question, found[1].options, found[1].answer) == (
        "Which letter is on the box?", (), "K"
    )  # fmt: skip
    assert [one.record for one in found[2:]] == ["test_questions/4", "test_questions/5"]
    assert "lacks the columns ['image', 'category', 'question_id', 'label']" in found[3].detail


def test_lines_beside_the_options_of_v_stars_list_are_not_lost_silently(tmp_path, caplog):
    """An option that goes on in a second line must not be asked without it."""
    entry = {"image": "x.jpg", "category": "c", "label": "A"}
    tail = "\nAnswer with the option's letter."
    texts = ["Which?\n(A) red\n\n(B) blue" + tail, "Which?\n(A) red and\nblue\n(B) green" + tail,
             "Which?\n(A) red\n(B) blue"]  # fmt: skip
    lines = [json.dumps(entry | {"text": t, "question_id": n}) for n, t in enumerate(texts)]
    path = tmp_path / "test_questions.jsonl"
    path.write_text("\n".join(lines))
    with caplog.at_level(logging.INFO):
        first, second, third = v_star.read_list(path)
    assert first.options == third.options == ("red", "blue")
    assert (second.record, second.reason) == ("test_questions/2", "wrong options")
    assert second.detail == "'blue' stands between the options"
    assert caplog.messages == [
        f"{path}: 1 questions have text after their options, and are asked without it; the first "
        'says "Answer with the option\'s letter."'
    ]


def test_our_own_benchmark_files_are_read_back(tmp_path):
    """What the synthetic world writes is what it asked: same answers, options and boxes."""
    settings = WorldSettings(
        size=(224, 224), objects=(3, 5), object_side=(36, 52), shapes=("block",), cross_share=0.5
    )
    asked = list(World(for_hr_bench(settings), 0, "train", 4))
    benchmarks.write_hr_bench(tmp_path / "w.tsv", asked)
    found = list(hr_bench.read(tmp_path / "w.tsv", tmp_path / "p"))
    assert [one.options["ABCD".index(one.answer)] for one in found] == [
        one.options["ABCD".index(one.answer)] for one in asked for _ in range(4)
    ]
    scenes = [
        (one, ("x",) * len(one.targets)) for one in World(for_v_star(settings), 0, "train", 4)
    ]
    benchmarks.write_v_star(tmp_path / "v", scenes)
    back = {one.id: one for one in v_star.read_folders(tmp_path / "v", seed=5)}
    for place, (one, _) in enumerate(scenes):
        read = back[f"{benchmarks.V_STAR_FOLDERS[one.category]}/sa_{place:06d}"]
        assert set(read.options) == set(one.options)
        right = one.options["ABCD".index(one.answer)]
        assert read.options["ABCD".index(read.answer)] == right
        assert read.targets == tuple((nest[0],) for nest in one.targets)


def test_a_benchmark_is_known_by_its_files(tmp_path):
    v_star_folder(tmp_path / "vstar-bench")
    write_tsv(tmp_path / "hr_bench_8k.tsv", rows())
    assert kind_of(tmp_path / "vstar-bench") == "v_star"
    one = open_benchmark(tmp_path / "vstar-bench", pictures=tmp_path / "p", seed=0)
    assert (one.name, one.kind, len(one.records)) == ("vstar_bench", "v_star", 5)
    some = open_benchmark(tmp_path / "hr_bench_8k.tsv", pictures=tmp_path / "p", seed=0, limit=3)
    assert len(some.records) == 3
    whole = open_benchmark(tmp_path / "hr_bench_8k.tsv", pictures=tmp_path / "p", seed=0)
    assert whole.digest != some.digest
    for path in (tmp_path, tmp_path / "nothing.tsv"):
        with pytest.raises(ValueError, match="no benchmark of a known format"):
            kind_of(path)
    (tmp_path / "records.jsonl").write_text("{}\n")  # a set that a person has begun
    with pytest.raises(ValueError, match="write this into"):
        open_benchmark(tmp_path, pictures=tmp_path / "p", seed=0)
    with pytest.raises(ValueError, match="cannot name files"):
        open_benchmark(tmp_path / "vstar-bench", pictures=tmp_path, seed=0, name="a/b")
    assert sys.getsizeof(whole.records[0].picture) < 1000  # paths, not bytes
