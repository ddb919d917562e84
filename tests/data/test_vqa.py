"""TextVQA, DocVQA, InfoVQA, ST-VQA and the drawn boxes, on files of their exact formats."""

import json
from collections import Counter
from pathlib import Path

import PIL.Image
import pyarrow
import pyarrow.parquet
import pytest

from lfpc_jax.cli import evaluate
from lfpc_jax.data import layout, sources, vqa
from lfpc_jax.data.audit import audit
from lfpc_jax.data.rejected import Rejected, TooManyLost
from lfpc_jax.run.config import DataSettings, Source, TrainConfig
from lfpc_jax.run.training_data import audited_data
from lfpc_jax.trajectory import Picture, Record
from support.pictured import jpeg

TEN = ["nokia", "Nokia", "nokia 8", "8", "nokia", "phone", "NOKIA", "n", "nokia.", "unanswerable"]


def text_row(number: int, **changes) -> dict:
    row = {
        "question": f"what is brand {number}?",
        "image_id": f"{number:016x}",
        "image_classes": ["Mobile phone"],
        "flickr_original_url": "there",
        "flickr_300k_url": "there",
        "image_width": 640,
        "image_height": 480,
        "answers": TEN,
        "question_tokens": ["what"],
        "question_id": 34602 + number,
        "set_name": "val",
    }
    return {name: value for name, value in (row | changes).items() if value is not ...}


def doc_row(number: int, **changes) -> dict:
    row = {
        "questionId": 337 + number,
        "question": "what is the date mentioned in this letter?",
        "question_types": ["handwritten", "form"],
        "image": f"documents/xnbl{number:04d}_1.png",
        "docId": 279,
        "ucsf_document_id": "xnbl0037",
        "ucsf_document_page_no": "1",
        "answers": ["1/8/93", "January 8, 1993"],
        "data_split": "train",
    }
    return {name: value for name, value in (row | changes).items() if value is not ...}


def drawn_row(question: int, bbox, data: bytes, **changes) -> dict:
    image = {"bytes": data, "path": "1.jpg"}
    row = {"image": image, "question": "what is the brand?", "answer": TEN, "dataset_id": question}
    return row | {"bbox": bbox} | changes


def write_json(path: Path, rows: list[dict], **changes) -> Path:
    whole = {"dataset_type": "val", "dataset_name": "x", "dataset_version": "0.5.1", "data": rows}
    path.write_text(json.dumps(whole | changes))
    return path


def write_table(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def place(folder: Path, *names: str, size=(64, 48)) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(*size, seed=number))


def reasons(entries) -> Counter:
    return Counter(entry.reason for entry in entries if isinstance(entry, Rejected))


def test_text_vqa_from_json(tmp_path):
    file = write_json(tmp_path / "TextVQA_0.5.1_val.json", [text_row(0), text_row(1)])
    images = tmp_path / "train_images"
    place(images, f"{0:016x}.jpg", f"{1:016x}.jpg")
    first, second = sources.read(f"text_vqa:{file}")
    assert first == Record(
        id="text_vqa/TextVQA_0.5.1_val/0",
        question="what is brand 0?",
        answer="nokia",  # four of ten, in any letter case
        picture=Picture(path=str(images / f"{0:016x}.jpg")),
        dataset="text_vqa",
        references=tuple(TEN),
        metric="vqa",
    )
    assert second.id == "text_vqa/TextVQA_0.5.1_val/1"
    assert len(audit(iter([first, second]), name="x").records) == 2
    elsewhere = tmp_path / "elsewhere"
    images.rename(elsewhere)
    first, _ = sources.read(f"text_vqa:{file}:{elsewhere}")
    assert first.picture.path == str(elsewhere / f"{0:016x}.jpg")


def test_text_vqa_from_parquet_by_file_folder_and_pattern(tmp_path):
    pictures = [jpeg(seed=n) for n in range(3)]
    rows = [
        text_row(n, image={"bytes": data, "path": None}, image_classes=...)
        for n, data in enumerate(pictures)
    ]
    write_table(tmp_path / "data/train-00000.parquet", rows[:1])
    file = write_table(tmp_path / "data/validation-00000.parquet", rows[1:2])
    write_table(tmp_path / "data/validation-00001.parquet", rows[2:])
    [one] = sources.read(f"text_vqa:{file}")
    assert (one.id, one.picture.data) == ("text_vqa/validation-00000/0", pictures[1])
    assert (one.references, one.metric) == (tuple(TEN), "vqa")
    by_folder = list(sources.read(f"text_vqa:{tmp_path}"))
    assert [record.id for record in by_folder] == [
        "text_vqa/data/train-00000/0",
        "text_vqa/data/validation-00000/0",
        "text_vqa/data/validation-00001/0",
    ]
    by_pattern = list(sources.read(f"text_vqa:{tmp_path / 'data/validation-*.parquet'}"))
    assert [record.picture.data for record in by_pattern] == pictures[1:]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answers": ...}, "no answers"),
        ({"answers": []}, "no answers"),
        ({"answers": None}, "no answers"),
        ({"answers": "nokia"}, "malformed row"),
        ({"answers": TEN[:9]}, "too few references"),
        ({"answers": [*TEN, "x"]}, "too few references"),
        ({"answers": [""] * 10}, "empty answer"),
        ({"question": ...}, "malformed row"),
        ({"question": " "}, "empty question"),
        ({"image_id": ...}, "malformed row"),
        ({"image_id": "gone"}, "missing picture"),
    ],
)
def test_each_fault_of_a_row_of_text_vqa_has_its_reason(tmp_path, changes, reason):
    place(tmp_path / "train_images", f"{0:016x}.jpg")
    file = write_json(tmp_path / "val.json", [text_row(0), text_row(0, **changes), 7])
    found = audit(vqa.text_vqa(file), name="val", max_share=1.0)
    assert [entry.reason for entry in found.rejected] == [reason, "malformed row"]
    assert [entry.record for entry in found.rejected] == ["text_vqa/val/1", "text_vqa/val/2"]
    assert len(found.records) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', "not valid JSON, or truncated"),
        ('{"rows": []}', "holds a NoneType where a list is expected under 'data'"),
        ('"x"', "holds a str where a list is expected"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, message):
    (tmp_path / "val.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        list(vqa.text_vqa(tmp_path / "val.json"))
    write_table(tmp_path / "val.parquet", [{"query": "x"}])
    with pytest.raises(ValueError, match="is this the right set"):
        list(vqa.doc_vqa(tmp_path / "val.parquet"))


def test_a_test_split_is_refused_by_name(tmp_path):
    rows = [doc_row(n, answers=..., question_types=...) for n in range(3)]
    file = write_json(tmp_path / "test_v1.0.json", rows)
    with pytest.raises(TooManyLost, match=r"3 of 3 .* cannot be used \(3 no answers\)"):
        audit(sources.read(f"doc_vqa:{file}"), name="test")
    bare = [{"question": "what?", "image": {"bytes": jpeg(), "path": None}, "answers": None}]
    write_table(tmp_path / "test.parquet", bare)
    assert reasons(vqa.doc_vqa(tmp_path / "test.parquet")) == {"no answers": 1}


def test_doc_vqa(tmp_path):
    place(tmp_path, "documents/xnbl0000_1.png", "documents/xnbl0001_1.png")
    rows = [doc_row(0), doc_row(1, question_types=..., answers=["", "8 January"])]
    file = write_json(tmp_path / "train_v1.0_withQT.json", rows)
    first, second = sources.read(f"doc_vqa:{file}")
    assert first == Record(
        id="doc_vqa/train_v1.0_withQT/0",
        question="what is the date mentioned in this letter?",
        answer="1/8/93",
        picture=Picture(path=str(tmp_path / "documents/xnbl0000_1.png")),
        dataset="doc_vqa",
        category="handwritten",
        references=("1/8/93", "January 8, 1993"),
        metric="anls",
    )
    assert (second.answer, second.references, second.category) == ("8 January", ("8 January",), "")
    table = write_table(
        tmp_path / "validation.parquet", [doc_row(0, image={"bytes": jpeg(), "path": "a.png"})]
    )
    [embedded] = sources.read(f"doc_vqa:{table}")
    assert embedded.picture == Picture(data=jpeg())
    assert (embedded.references, embedded.category) == (first.references, "handwritten")
    [lost] = vqa.doc_vqa(write_table(tmp_path / "b.parquet", [doc_row(0, image=None)]))
    assert lost.reason == "missing picture"


def test_info_vqa(tmp_path):
    row = {
        "questionId": 65718,
        "question": "Which social platform has heavy female audience?",
        "image_local_name": "20471.jpeg",
        "image_url": "there",
        "ocr_output_file": "20471.json",
        "answers": ["pinterest", "Pinterest"],
        "data_split": "val",
    }
    val = row | {"answer_type": ["single span"], "evidence": ["text"], "operation/reasoning": []}
    place(tmp_path / "images", "20471.jpeg")
    train = write_json(tmp_path / "infographicsVQA_train_v1.0.json", [row])
    file = write_json(tmp_path / "infographicsVQA_val_v1.0_withQT.json", [val])
    [first] = sources.read(f"info_vqa:{train}:{tmp_path / 'images'}")
    assert first.id == "info_vqa/infographicsVQA_train_v1.0/0"
    assert first.picture == Picture(path=str(tmp_path / "images/20471.jpeg"))
    assert (first.references, first.metric) == (("pinterest", "Pinterest"), "anls")
    assert first.category == ""
    [second] = sources.read(f"info_vqa:{file}:{tmp_path / 'images'}")
    assert second.category == "single span"
    embedded = {"bytes": jpeg(), "path": None}
    table = write_table(tmp_path / "val.parquet", [val | {"image": embedded}])
    [third] = sources.read(f"info_vqa:{table}")
    assert (third.picture.data, third.category) == (jpeg(), "single span")
    [lost] = vqa.info_vqa(write_json(tmp_path / "a.json", [row | {"answers": 3}]))
    assert lost.reason == "malformed row"


def test_st_vqa(tmp_path):
    row = {
        "question_id": 0,
        "question": "Which title is this?",
        "answers": ["the dog", "dog"],
        "file_path": "coco-text/COCO_train2014_000000419720.jpg",
        "file_name": "COCO_train2014_000000419720.jpg",
        "dataset": "coco-text",
    }
    bare = {name: value for name, value in row.items() if name != "answers"}
    place(tmp_path / "images", row["file_path"])
    file = write_json(tmp_path / "train_task_3.json", [row, bare], task_name="task3")
    first, lost = sources.read(f"st_vqa:{file}:{tmp_path / 'images'}")
    assert first == Record(
        id="st_vqa/train_task_3/0",
        question="Which title is this?",
        answer="the dog",
        picture=Picture(path=str(tmp_path / "images" / row["file_path"])),
        dataset="st_vqa",
        category="coco-text",
        references=("the dog", "dog"),
        metric="anls",
    )
    assert lost.reason == "no answers"
    table = write_table(tmp_path / "t.parquet", [row | {"image": jpeg()}])
    [embedded] = sources.read(f"st_vqa:{table}")
    assert embedded.picture == Picture(data=jpeg())


def test_drawn_boxes_alone(tmp_path):
    data = jpeg(64, 48)
    file = write_table(
        tmp_path / "boxes.parquet",
        [
            drawn_row(34602, [10.5, 4.0, 20.0, 8.25], data),
            drawn_row(34603, [-0.6, 40.0, 65.9, 9.0], data),  # a little out of the picture
            drawn_row(34604, [10.0, 4.0, 80.0, 8.0], data),
            drawn_row(34605, [10.0, 4.0, 8.0], data),
            drawn_row(34606, None, data),
            drawn_row(34607, [1.0, 1.0, 2.0, 2.0], b"no picture"),
            drawn_row(34608, [1.0, 1.0, 2.0, 2.0], data, answer=TEN[:4]),
        ],
    )
    found = audit(sources.read(f"text_vqa_boxes:{file}"), name="boxes", max_share=1.0)
    first, second = found.records
    assert first.id == "text_vqa_boxes/boxes/0"
    assert first.targets == (((10.5, 4.0, 30.5, 12.25),),)
    assert second.targets == (((0.0, 40.0, 64.0, 48.0),),)
    assert (first.answer, first.references, first.metric) == ("nokia", tuple(TEN), "vqa")
    assert {entry.record[-1]: entry.reason for entry in found.rejected} == {
        "2": "box outside picture",
        "3": "malformed row",
        "4": "malformed row",
        "5": "unreadable picture",
        "6": "too few references",
    }
    place(tmp_path, "a.jpg")
    rows = [drawn_row(1, [1, 2, 3, 4], data, image="a.jpg")]
    [named] = sources.read(f"text_vqa_boxes:{write_json(tmp_path / 'boxes.json', rows)}")
    assert (named.picture.path, named.targets) == (str(tmp_path / "a.jpg"), (((1, 2, 4, 6),),))


def test_drawn_boxes_become_the_targets_of_their_questions(tmp_path):
    """The original of question 1 is twice as large as the picture that was drawn on; question 2 has
    two boxes; the picture of question 3 is not the one that was drawn on."""
    images = tmp_path / "images"
    place(images, *(f"{n:016x}.jpg" for n in range(4)), size=(128, 96))
    rows = [text_row(n) for n in range(4)]
    file = write_json(tmp_path / "val.json", rows)
    same, half, other = jpeg(128, 96), jpeg(64, 48), jpeg(64, 64)
    table = write_table(
        tmp_path / "drawn/boxes.parquet",
        [
            drawn_row(34603, [10.5, 4.0, 20.0, 8.0], half),
            drawn_row(34604, [1.0, 2.0, 3.0, 4.0], same),
            drawn_row(34604, [50.0, 60.0, 10.0, 10.0], same),
            drawn_row(34605, [1.0, 2.0, 3.0, 4.0], other),
            drawn_row(99999, [1.0, 2.0, 3.0, 4.0], same),
            drawn_row(34602, [1.0, 2.0], same),
        ],
    )
    for named in (f"{images}:{table}", f"{table}:{images}", f"{images}:{table.parent}"):
        found = audit(sources.read(f"text_vqa:{file}:{named}"), name="val", max_share=1.0)
        assert {record.id[-1]: record.targets for record in found.records} == {
            "0": (),
            "1": (((21.0, 8.0, 61.0, 24.0),),),
            "2": (((1.0, 2.0, 4.0, 6.0),), ((50.0, 60.0, 60.0, 70.0),)),
        }
        assert [(entry.record, entry.reason) for entry in found.rejected] == [
            ("text_vqa_boxes/boxes/5", "malformed row"),
            ("text_vqa/val/3", "box outside picture"),
            ("text_vqa_boxes/boxes/4", "box of no question"),
        ]
    with pytest.raises(ValueError, match="at most one of each"):
        list(vqa.text_vqa(file, table, table))


def test_a_set_is_scored_as_its_name_says(tmp_path):
    place(tmp_path, "documents/xnbl0000_1.png")
    file = write_json(tmp_path / "val.json", [doc_row(0)])
    [half] = sources.read(f"doc_vqa@anls_half:{file}")
    assert (half.metric, len(half.references)) == ("anls_half", 2)
    [ruled] = sources.read(f"doc_vqa@rules:{file}")
    assert (ruled.metric, ruled.answer) == ("rules", "1/8/93")
    picture = Picture(path=str(tmp_path / "documents/xnbl0000_1.png"))
    layout.write(tmp_path / "set", [Record("one", "What?", "this", picture)])
    [near] = sources.read(f"layout@anls:{tmp_path / 'set'}")
    assert (near.metric, near.references) == ("anls", ("this",))
    with pytest.raises(TooManyLost, match="1 too few references"):
        audit(sources.read(f"doc_vqa@vqa:{file}"), name="x")


def test_a_readers_set_can_be_trained_on_and_evaluated(tmp_path):
    place(tmp_path / "train_images", f"{0:016x}.jpg", f"{1:016x}.jpg")
    file = write_json(tmp_path / "TextVQA_0.5.1_train.json", [text_row(0), text_row(1)])
    source = f"text_vqa:{file}"
    data = DataSettings(train=(Source(source),), validation=(Source(source),))
    [part], validation = audited_data(TrainConfig(data=data))
    assert [record.metric for record in part.records] == ["vqa", "vqa"]
    assert len(validation) == 2
    words = [str(tmp_path / "out"), "--model", "m", "--data", source, f"short={source}"]
    found = evaluate._benchmarks(evaluate.parser().parse_args(words))
    assert [benchmark.name for benchmark in found] == ["TextVQA_0.5.1_train", "short"]
    assert found[0].records == part.records


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("doc_vqa@bleu:x.json", "unknown metric 'bleu'; known are"),
        ("doc_vqa:x.json", "x.json does not exist"),
        ("doc_vqa:none-*.parquet", "does not exist"),
        ("doc_vqa:a:b:c", "needs 1 to 2 paths"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(source, message):
    with pytest.raises(ValueError, match=message):
        sources.read(source)


@pytest.mark.parametrize("table", ["jsonl", "parquet"])
def test_the_layout_keeps_references_and_metric(tmp_path, table):
    picture = Picture(data=jpeg())
    records = [
        Record("a", "What?", "this", picture),
        Record("b", "What?", "x", picture, references=("x", "y"), metric="anls_half"),
        Record("c", "What?", "x", picture, references=("x",)),
    ]
    layout.write(tmp_path / "set", records, table=table)
    found = list(layout.read(tmp_path / "set"))
    assert [(one.references, one.metric) for one in found] == [
        ((), "rules"),
        (("x", "y"), "anls_half"),
        (("x",), "rules"),
    ]


def test_a_layout_with_an_unknown_metric_loses_that_record(tmp_path):
    layout.write(tmp_path, [Record("b", "?", "x", Picture(), references=("x",), metric="anls")])
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace('"anls"', '"bleu"'))
    [lost] = layout.read(tmp_path)
    assert (lost.reason, "metric 'bleu'" in lost.detail) == ("malformed row", True)


def test_records_of_before_are_written_as_before(tmp_path):
    """Neither column is in the files of a set that has no use for it."""
    plain = Record("a", "What?", "this", Picture(data=jpeg()))
    for table in ("jsonl", "parquet"):
        layout.write(tmp_path / table, [plain], table=table)
    [line] = (tmp_path / "jsonl/records.jsonl").read_text().splitlines()
    names = ["id", "question", "answer", "options", "targets", "image", "longest_side", "dataset",
             "category"]  # fmt: skip
    assert list(json.loads(line)) == names
    assert pyarrow.parquet.read_schema(tmp_path / "parquet/records.parquet").names == names
    assert not (tmp_path / "parquet/records.jsonl").exists()


def test_options_are_not_graded(tmp_path):
    PIL.Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    picture = Picture(path=str(tmp_path / "a.png"))
    entries = [
        Record("a", "?", "A", picture, options=("x", "y"), references=("A",), metric="anls"),
        Record("b", "?", "x", picture, metric="anls"),
        Record("c", "?", "x", picture, references=("x",) * 3, metric="vqa"),
        Record("d", "?", "x", picture, references=("x",) * 4, metric="vqa"),
    ]
    found = audit(entries, name="x", max_share=1.0)
    assert [entry.reason for entry in found.rejected] == [
        "wrong options",
        "too few references",
        "too few references",
    ]
