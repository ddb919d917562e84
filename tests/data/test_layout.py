"""The project's layout: what is written is what is read, and a truncated file is refused."""

import json

import pytest

from lfpc_jax.data import layout
from lfpc_jax.data.rejected import Rejected, TooManyLost
from lfpc_jax.trajectory import Picture, Record
from support.pictured import jpeg, record

NESTS = (((1.0, 2.0, 3.5, 4.0), (0.0, 0.0, 9.0, 9.0)), ((20.0, 20.0, 30.0, 30.0),))


def records() -> list[Record]:
    return [
        record("plain", question="Qué?\tO\nnew line"),
        record("full", options=("x", "y"), answer="B", targets=NESTS, category="cross"),
        record("gap", longest_side=224, dataset="world", picture=Picture(data=jpeg(seed=3))),
        record("text", picture=Picture()),
    ]


@pytest.mark.parametrize("table", ["jsonl", "parquet"])
def test_round_trip(tmp_path, table):
    count, rejected = layout.write(tmp_path / "set", records(), table=table, about={"seed": 7})
    assert (count, rejected) == (4, ())
    found = list(layout.read(tmp_path / "set"))
    for before, after in zip(records(), found, strict=True):
        assert isinstance(after, Record)
        if before.picture != Picture():
            with open(after.picture.path, "rb") as file:
                assert file.read() == before.picture.data
        fields = vars(before) | {"picture": after.picture}
        assert vars(after) == fields
    assert layout.read_meta(tmp_path / "set")["about"] == {"seed": 7}


def test_pictures_that_are_files_are_copied_or_named(tmp_path):
    source = tmp_path / "photo.jpg"
    source.write_bytes(jpeg())
    entries = [
        record("a", picture=Picture(path=str(source))),
        record("b", picture=Picture(path=str(tmp_path / "gone.jpg"))),
        Rejected("c", "empty answer", ""),
        Rejected("d", "video", ""),  # by design not for us, so no part of the share
    ]
    with pytest.raises(TooManyLost, match="2 of 3 records cannot be used"):
        layout.write(tmp_path / "stopped", entries)
    with pytest.raises(ValueError, match=r"missing; if a command was interrupted, run it again"):
        list(layout.read(tmp_path / "stopped"))
    count, rejected = layout.write(tmp_path / "copied", entries, max_share=0.7)
    assert count == 1
    assert layout.read_meta(tmp_path / "copied")["losses"] == [str(one) for one in rejected]
    assert [(loss.record, loss.reason) for loss in rejected] == [
        ("b", "missing picture"),
        ("c", "empty answer"),
        ("d", "video"),
    ]
    (copied,) = layout.read(tmp_path / "copied")
    assert isinstance(copied, Record)
    assert copied.picture.path == str(tmp_path / "copied/images/00000/00000000.jpg")
    layout.write(tmp_path / "named", entries[:1], copy_files=False)
    (named,) = layout.read(tmp_path / "named")
    assert isinstance(named, Record)
    assert named.picture.path == str(source)
    assert not (tmp_path / "named/images").exists()


def test_a_malformed_line_is_a_loss_and_a_missing_one_an_error(tmp_path):
    layout.write(tmp_path, records()[:3])
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines()
    wrong = json.loads(lines[1])
    wrong["targets"][0][0] = [1, 2, 3]
    path.write_text("\n".join([lines[0], json.dumps(wrong), lines[2][:40]]) + "\n")
    first, second, third = layout.read(tmp_path)
    assert isinstance(first, Record)
    assert isinstance(second, Rejected)
    assert "each box needs four numbers" in second.detail
    assert isinstance(third, Rejected)
    assert (third.record, third.reason) == (f"{path}:3", "malformed row")
    for column, value in (("question", None), ("longest_side", 0), ("longest_side", "224")):
        wrong = json.loads(lines[0]) | {column: value}
        path.write_bytes(b"\n".join([json.dumps(wrong).encode(), b'{"id": "\xff"}', b"[]\n"]))
        found = list(layout.read(tmp_path))
        assert [entry.reason for entry in found] == ["malformed row"] * 3
        assert f"{column} {value!r}" in found[0].detail
    path.write_text(lines[0] + "\n")
    with pytest.raises(ValueError, match=r'where meta.json counts 3; .* write `"count": 1` there'):
        list(layout.read(tmp_path))


def test_another_version_or_an_unfinished_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"missing; is .* a set in the project's layout"):
        list(layout.read(tmp_path))
    layout.write(tmp_path, records())
    with pytest.raises(ValueError, match="holds a set already"):
        layout.write(tmp_path, records())
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"version": 99}))
    with pytest.raises(ValueError, match="version 99"):
        list(layout.read(tmp_path))


def test_a_set_that_a_person_wrote_is_told_the_lines_of_its_meta_json(tmp_path):
    """With these it is read, and a column that is missing is named."""
    line = {"id": "1", "question": "What?", "answer": "A", "options": ["x", "y"], "image": None}
    (tmp_path / "records.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"meta\.json: missing; .* write this into") as it:
        list(layout.read(tmp_path))
    told = str(it.value).split("meta.json:\n")[1]
    assert told.splitlines()[1:-1] == [
        '  "format": "lfpc_jax records",', '  "version": 1,', '  "records": "records.jsonl",',
        '  "count": 1',
    ]  # fmt: skip
    (tmp_path / "meta.json").write_text(told)
    [rejected] = layout.read(tmp_path)
    assert rejected.detail.startswith(
        "ValueError: no targets, longest_side, dataset, category; a record has all of id, question"
    )
    whole = {"targets": [], "longest_side": None, "dataset": "", "category": ""}
    (tmp_path / "records.jsonl").write_text(json.dumps(line | whole) + "\n")
    [record] = layout.read(tmp_path)
    assert record.question == "What?"
