"""Each public set's reader, on files of its exact format made here."""

import json
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from lfpc_jax.data import parquet, public
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.trajectory import Picture, Record
from support.pictured import jpeg


def write_table(path: Path, rows: list[dict]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def reasons(entries) -> list[str]:
    return [entry.reason for entry in entries if isinstance(entry, Rejected)]


def deep_eyes_row(index: int, source: str, images: list[dict], **changes) -> dict:
    question = f"What colour is car {index}?"
    instructions = "\nThink first, call the tool if needed, then answer."
    row = {
        "prompt": [
            {"role": "system", "content": "You are a helpful assistant with tools."},
            {"role": "user", "content": f"<image>\n{question}{instructions}"},
        ],
        "images": images,
        "reward_model": {"ground_truth": f"red {index}", "style": "model"},
        "extra_info": {"question": question, "answer": "?", "index": str(index), "split": "train"},
        "data_source": source,
        "ability": "vl_agent",
        "env_name": "visual_toolbox_v2",
    }
    return row | changes


def test_deep_eyes(tmp_path):
    pictures = [{"bytes": jpeg(seed=i), "path": None} for i in range(4)]
    write_table(tmp_path / "a_visual.parquet", [deep_eyes_row(0, "vstar", pictures[:1])])
    write_table(
        tmp_path / "b_chart.parquet",
        [deep_eyes_row(1, "chart", pictures[1:3]), deep_eyes_row(2, "chart", pictures[1:2])],
    )
    bare = {"question": None, "answer": "", "index": "3", "split": "train"}
    write_table(
        tmp_path / "c_thinklite.parquet",
        [deep_eyes_row(3, "thinklite_eureka", pictures[3:], extra_info=bare)],
    )
    first, several, second, third = public.deep_eyes(tmp_path)
    assert first == Record(
        id="deep_eyes/a_visual/0",
        question="What colour is car 0?",
        answer="red 0",
        picture=Picture(data=pictures[0]["bytes"]),
        dataset="deep_eyes",
        category="vstar",
    )
    assert several == Rejected("deep_eyes/b_chart/0", "several pictures", "2 of them")
    assert isinstance(second, Record)
    assert second.id == "deep_eyes/b_chart/1"
    assert second.picture.data == pictures[1]["bytes"]
    assert isinstance(third, Record)
    assert third.question.startswith("What colour is car 3?\nThink first")


def test_visual_probe(tmp_path):
    rows = [
        {
            "images": [f"images/{name}.jpg"],
            "problem": "<image>\nWhat is written on the sign?",
            "solution": "Bakery",
            "doc_id": name,
            "data_source": "visual_probe_train",
        }
        for name in ("one", "two")
    ]
    rows[1]["images"] = []
    rows.append(rows[0] | {"images": None})
    (tmp_path / "train.json").write_text(json.dumps([*rows, "not a row"]))
    good, *bad = public.visual_probe(tmp_path / "train.json")
    assert good == Record(
        id="visual_probe/train/0",
        question="What is written on the sign?",
        answer="Bakery",
        picture=Picture(path=str(tmp_path / "images/one.jpg")),
        dataset="visual_probe",
        category="visual_probe_train",
    )
    assert reasons(bad) == ["missing picture", "missing picture", "malformed row"]
    assert [loss.record for loss in bad] == [f"visual_probe/train/{row}" for row in (1, 2, 3)]


def pixel_reasoner_row(qid: str, image: list[str], answer: str, is_video: bool = False) -> dict:
    question = f"<image> Question {qid}? Choices: (A) yes (B) no"
    return {
        "question": question,
        "answer": [answer],
        "image": image,
        "is_video": is_video,
        "qid": qid,
    }


@pytest.mark.parametrize("archived", [True, False])
def test_pixel_reasoner(tmp_path, archived):
    rows = [
        pixel_reasoner_row("q0", ["images/a.jpg"], r"So it is \boxed{\frac{1}{2}} indeed."),
        pixel_reasoner_row("q1", ["b.jpg"], r"\boxed{B}"),
        pixel_reasoner_row("q2", ["clip_0.jpg", "clip_1.jpg"], r"\boxed{A}", is_video=True),
        pixel_reasoner_row("q3", ["a.jpg", "b.jpg"], r"\boxed{A}"),
        pixel_reasoner_row("q4", ["images/gone.jpg"], r"\boxed{A}"),
        pixel_reasoner_row("q5", ["images/a.jpg"], r"\boxed{A"),
    ]
    write_table(tmp_path / "train.parquet", rows)
    if archived:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            archive.writestr("images/a.jpg", jpeg(seed=1))
            archive.writestr("images/b.jpg", jpeg(seed=2))
    entries = list(public.pixel_reasoner(tmp_path / "train.parquet"))
    first, second = entries[:2]
    assert isinstance(first, Record)
    assert isinstance(second, Record)
    assert (first.answer, second.answer) == (r"\frac{1}{2}", "B")
    assert first.question == "Question q0? Choices: (A) yes (B) no"
    if archived:
        assert (first.picture.data, second.picture.data) == (jpeg(seed=1), jpeg(seed=2))
        expected = ["video", "several pictures", "missing picture", "malformed row"]
    else:
        assert first.picture == Picture(path=str(tmp_path / "images/a.jpg"))
        expected = ["video", "several pictures", "malformed row"]
    assert reasons(entries) == expected


def test_a_broken_archive_is_named(tmp_path):
    write_table(tmp_path / "train.parquet", [pixel_reasoner_row("q", ["a.jpg"], "A")])
    (tmp_path / "images.zip").write_bytes(b"PK not really")
    with pytest.raises(ValueError, match=r"images.zip.*download it again"):
        list(public.pixel_reasoner(tmp_path / "train.parquet"))


def test_chain_of_focus(tmp_path):
    rows = [
        {
            "messages": [
                {"role": "system", "content": "Tools."},
                {"role": "user", "content": "<image>How many birds?"},
                {"role": "assistant", "content": "<think>zoom</think><tool_call>..."},
                {"role": "user", "content": "<image>"},
                {"role": "assistant", "content": "<think>3</think><answer> three </answer>"},
            ],
            "images": ["coco/a.jpg", "crops/a_0.jpg"],
        },
        {
            "messages": [
                {"role": "user", "content": "Which is it?"},
                {"role": "assistant", "content": "a bus"},
            ],
            "images": ["coco/b.jpg"],
        },
        {
            "messages": [
                {"role": "user", "content": "<image><image>Same?"},
                {"role": "assistant", "content": "no"},
            ],
            "images": ["a.jpg", "b.jpg"],
        },
        {"messages": [{"role": "user", "content": "<image>?"}], "images": ["a.jpg"]},
    ]
    (tmp_path / "cof.json").write_text(json.dumps(rows))
    entries = list(public.chain_of_focus(tmp_path / "cof.json", tmp_path / "data"))
    first, second = entries[:2]
    assert first == Record(
        id="chain_of_focus/cof/0",
        question="How many birds?",
        answer="three",
        picture=Picture(path=str(tmp_path / "data/coco/a.jpg")),
        dataset="chain_of_focus",
    )
    assert isinstance(second, Record)
    assert (second.id, second.answer) == ("chain_of_focus/cof/1", "a bus")
    assert reasons(entries) == ["several pictures", "malformed row"]


@pytest.mark.parametrize("struct", [True, False])
def test_think_lite(tmp_path, struct):
    tiny = jpeg(20, 9)
    image = {"bytes": tiny, "path": None} if struct else tiny
    rows = [
        {"id": 7, "problem": "<image>Find x.", "answer": "12", "image": image},
        {"id": 8, "problem": "<image>Find y.", "answer": None, "image": None},
    ]
    write_table(tmp_path / "hard.parquet", rows)
    good, bad = public.think_lite(tmp_path)
    assert good == Record(
        id="think_lite/hard/0",
        question="Find x.",
        answer="12",
        picture=Picture(data=tiny),
        dataset="think_lite",
    )
    assert bad == Rejected("think_lite/hard/1", "missing picture", "neither bytes nor a path")


def test_nothing_becomes_empty_text_and_not_the_word_none(tmp_path):
    rows = [{"id": 1, "problem": None, "answer": None, "image": jpeg()}]
    schema = pyarrow.schema(
        {
            "id": pyarrow.int64(),
            "problem": pyarrow.string(),
            "answer": pyarrow.string(),
            "image": pyarrow.binary(),
        }
    )
    table = pyarrow.Table.from_pylist(rows, schema)
    pyarrow.parquet.write_table(table, tmp_path / "hard.parquet")
    (entry,) = public.think_lite(tmp_path)
    assert isinstance(entry, Record)
    assert (entry.question, entry.answer) == ("", "")


def test_the_wrong_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no parquet file here"):
        list(public.deep_eyes(tmp_path))
    write_table(tmp_path / "other.parquet", [{"id": 1}])
    with pytest.raises(ValueError, match=r"other.parquet: has columns \['id'\] and lacks"):
        list(public.think_lite(tmp_path))
    (tmp_path / "other.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match="not a parquet file, or truncated"):
        list(public.think_lite(tmp_path))
    (tmp_path / "list.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a dict"):
        list(public.visual_probe(tmp_path / "list.json"))
    (tmp_path / "list.json").write_text('[{"images": [')
    with pytest.raises(ValueError, match=r"list.json: not valid JSON, or truncated"):
        list(public.visual_probe(tmp_path / "list.json"))


def test_a_row_group_is_never_in_memory_whole(tmp_path):
    """pandas writes a set as one row group, which for DeepEyes is gigabytes. Pages are read."""
    blob = jpeg(2000, 1500)
    table = pyarrow.Table.from_pylist([{"id": i, "image": blob} for i in range(40)])
    path = tmp_path / "one_group.parquet"
    pyarrow.parquet.write_table(table, path, use_dictionary=False, write_batch_size=2)
    del table
    assert pyarrow.parquet.ParquetFile(path).num_row_groups == 1
    held = []
    before = pyarrow.total_allocated_bytes()
    for row in parquet.rows(path, ("id", "image")):
        held.append(pyarrow.total_allocated_bytes() - before)
        assert len(row["image"]) == len(blob)
    assert len(held) == 40
    assert max(held) < 0.6 * 40 * len(blob)
