"""The way from downloads to `data/focus` and `data/boxes`, as docs/data.md has it, on files of the
published formats."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet

import lfpc_jax
from lfpc_jax.cli import gather, select_resolution
from lfpc_jax.data import layout
from support.pictured import jpeg

PAGE = Path(lfpc_jax.__file__).parents[1] / "docs" / "data.md"


def downloads(folder: Path) -> None:
    for name in ("pr", "cof", "thinklite"):
        (folder / name).mkdir()
    for name in ("pr/a.jpg", "cof/b.jpg"):
        (folder / name).write_bytes(jpeg(seed=len(name)))
    row = {"question": "Which colour is it?", "answer": ["\\boxed{red}"], "image": ["a.jpg"],
           "is_video": False, "qid": "q1"}  # fmt: skip
    table = pyarrow.Table.from_pylist([row])
    pyarrow.parquet.write_table(table, folder / "pr" / "train.parquet")
    said = [{"role": "user", "content": "<image>\nHow many?"},
            {"role": "assistant", "content": "<answer>3</answer>"}]  # fmt: skip
    (folder / "cof" / "rl.json").write_text(json.dumps([{"messages": said, "images": ["b.jpg"]}]))
    row = {"id": "t1", "problem": "Which shape?", "answer": "round", "image": jpeg(seed=5)}
    table = pyarrow.Table.from_pylist([row])
    pyarrow.parquet.write_table(table, folder / "thinklite" / "train.parquet")


HERE = {
    "TIGER-Lab/PixelReasoner-RL-Data": "pixel_reasoner:pr/train.parquet",
    "russwang/ThinkLite-VL-hard-11k": "think_lite:thinklite",
}
"""Where the page names sets on the Hub: the same, downloaded."""


def test_the_commands_of_the_page_make_both_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    downloads(tmp_path)
    way = PAGE.read_text().split("## From downloads to")[1].split("\n## ")[0]
    focus, boxes = re.findall(r"^lfpc gather (.*)", way, re.MULTILINE)
    for name, path in HERE.items():
        focus = focus.replace(name, path)
    assert gather.main(focus.split()) == 0
    meta = json.loads(Path("data/focus/meta.json").read_text())
    assert (meta["count"], meta["losses"]) == (3, [])
    assert select_resolution.main(["data/focus", "data/focus-answer", "--strategy", "hard"]) == 0
    first = next(iter(layout.read(Path("data/focus-answer"))))
    [drawn] = re.findall(r'```json\n(\{"ID".*?)```', way, re.DOTALL)
    nested = [[[1.0, 1.0, 5.0, 5.0], [0.0, 0.0, 9.0, 9.0]]]
    assert all(map(_is_box, json.loads(drawn)["ID"][0]))
    Path("drawn.json").write_text(json.dumps({first.id: nested}))
    assert gather.main(boxes.split()) == 0
    [record] = layout.read(Path("data/boxes"))
    assert record.targets == (((1.0, 1.0, 5.0, 5.0), (0.0, 0.0, 9.0, 9.0)),)


def _is_box(box):
    return len(box) == 4 and box[0] < box[2] and box[1] < box[3]


def test_the_pages_record_is_one_that_is_read(tmp_path):
    blocks = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    line, about = map(json.loads, blocks[:2])
    (tmp_path / "images" / "00000").mkdir(parents=True)
    (tmp_path / line["image"]).write_bytes(jpeg())
    (tmp_path / "meta.json").write_text(json.dumps(about))
    (tmp_path / "records.jsonl").write_text(json.dumps(line))
    [record] = layout.read(tmp_path)
    assert record.targets == (((210.0, 120.0, 330.0, 200.0), (180.0, 90.0, 380.0, 240.0)),)
    assert record.longest_side == 224
