"""Sets named by one text."""

import json
import random

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from lfpc_jax.data import layout, sources
from lfpc_jax.trajectory import Picture, Record


@pytest.fixture
def picture(tmp_path):
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_layout_by_its_folder_or_by_name(tmp_path, picture):
    record = Record("one", "What?", "this", Picture(path=str(picture)))
    layout.write(tmp_path / "set", [record])
    for name in (str(tmp_path / "set"), f"layout:{tmp_path / 'set'}"):
        assert [one.id for one in sources.read(name)] == ["one"]


def test_public_sets_by_their_reader(tmp_path, picture):
    row = {"problem": "<image>What?", "solution": "this", "images": ["a.png"], "data_source": "x"}
    (tmp_path / "probe.json").write_text(json.dumps([row]))
    [record] = sources.read(f"visual_probe:{tmp_path / 'probe.json'}")
    assert (record.question, record.answer) == ("What?", "this")
    talk = [{"role": "user", "content": "<image>Where?"},
            {"role": "assistant", "content": "<answer>there</answer>"}]  # fmt: skip
    (tmp_path / "focus.json").write_text(json.dumps([{"messages": talk, "images": ["a.png"]}]))
    [record] = sources.read(f"chain_of_focus:{tmp_path / 'focus.json'}:{tmp_path}")
    assert (record.question, record.answer) == ("Where?", "there")
    assert record.picture.path == str(picture)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("deep_eyes:nowhere", "nowhere does not exist"),
        ("deepeyes:nowhere", "unknown reader 'deepeyes'; known are"),
        ("chain_of_focus:file.json", "needs 2 paths with a colon between them"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(source, message):
    with pytest.raises(ValueError, match=message):
        sources.read(source)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_of_a_set_are_disjoint_complete_and_independent_of_order(tmp_path, parts):
    """Two questions a picture; a row that cannot be read; and one question in text alone."""
    rng = random.Random(5)
    pictures = {f"p{i}.png": i for i in range(40)}
    for name in pictures:
        PIL.Image.new("RGB", (40, 30)).save(tmp_path / name)
    records = [
        Record(f"{name}-{n}", "What?", "this", Picture(path=str(tmp_path / name)))
        for name in pictures for n in range(2)
    ] + [Record("text", "What?", "this", Picture())]  # fmt: skip

    def split(folder, records):
        layout.write(tmp_path / folder, records, copy_files=False)
        with (tmp_path / folder / "records.jsonl").open("a") as file:
            file.write("no json\n")
        meta = tmp_path / folder / "meta.json"
        meta.write_text(meta.read_text().replace('"count": 81', '"count": 82'))
        source = f"layout%{{}}/{parts}:{tmp_path / folder}"
        return [list(sources.read(source.format(n + 1))) for n in range(parts)]

    made = split("set", records)
    sound = [[entry for entry in part if isinstance(entry, Record)] for part in made]
    ids = [{record.id for record in part} for part in sound]
    assert sum(map(len, ids)) == 81
    assert set.union(*ids) == {record.id for record in records}
    assert sum(len(part) for part in made) == 82  # each rejected row is in one part
    assert min(map(len, sound)) >= 81 / parts / 2
    seen = [{record.picture.path for record in part} for part in sound]
    assert all(not seen[a] & seen[b] for a in range(parts) for b in range(a))
    order = {record.id: place for place, record in enumerate(records)}
    assert all(part == sorted(part, key=lambda record: order[record.id]) for part in sound)

    shuffled = records[:]
    rng.shuffle(shuffled)
    again = split("shuffled", shuffled)
    assert [{one.id for one in part if isinstance(one, Record)} for part in again] == ids


def test_an_embedded_picture_is_in_the_part_of_its_bytes(tmp_path, picture):
    data = picture.read_bytes()
    table = pyarrow.table({
        "question": ["What?", "Where?"], "image": [{"bytes": data}] * 2, "answers": [["a"]] * 2
    })  # fmt: skip
    pyarrow.parquet.write_table(table, tmp_path / "docs.parquet")
    counts = [
        [entry.question for entry in sources.read(f"doc_vqa%{n}/2:{tmp_path / 'docs.parquet'}")]
        for n in (1, 2)
    ]
    assert sorted(counts) == [[], ["What?", "Where?"]]


def test_a_part_and_a_metric_may_be_named_together(tmp_path, picture):
    records = [Record(f"r{i}", "What?", "this", Picture(path=str(picture))) for i in range(3)]
    layout.write(tmp_path / "set", records)
    both = [list(sources.read(f"layout@anls%{n}/2:{tmp_path / 'set'}")) for n in (1, 2)]
    assert {record.metric for part in both for record in part} == {"anls"}
    assert sources.own_folder(f"layout@anls%1/2:{tmp_path / 'set'}") == tmp_path / "set"


@pytest.mark.parametrize("part", ["", "0/2", "3/2", "1", "1/", "a/2", "1/0", "-1/2", "1/2/3"])
def test_a_part_that_is_none_is_refused_at_once(tmp_path, picture, part):
    with pytest.raises(ValueError, match=r"write it as 1/2 for the first of two parts"):
        sources.read(f"layout%{part}:{tmp_path}")
