"""The way from downloads to `data/focus` and `data/boxes`, as docs/data.md has it, on files of the
published formats."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet

import lfpc_jax
from lfpc_jax.cli import select_resolution
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


def test_the_commands_of_the_page_make_both_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    downloads(tmp_path)
    way = PAGE.read_text().split("## From downloads to")[1].split("\n## ")[0]
    focus, boxes = re.findall(r"```python\n(.*?)```", way, re.DOTALL)
    exec(focus)
    meta = json.loads(Path("data/focus/meta.json").read_text())
    assert (meta["count"], meta["losses"]) == (3, [])
    assert select_resolution.main(["data/focus", "data/focus-answer", "--strategy", "hard"]) == 0
    first = next(iter(layout.read(Path("data/focus-answer"))))
    target = "(((1.0, 1.0, 5.0, 5.0), (0.0, 0.0, 9.0, 9.0)),)"
    exec(re.sub(r"drawn = .*", f"drawn = {{{first.id!r}: {target}}}", boxes), {})
    [record] = layout.read(Path("data/boxes"))
    assert record.targets == (((1.0, 1.0, 5.0, 5.0), (0.0, 0.0, 9.0, 9.0)),)


def test_the_pages_record_is_one_that_is_read(tmp_path):
    line, about = map(json.loads, re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL))
    (tmp_path / "images" / "00000").mkdir(parents=True)
    (tmp_path / line["image"]).write_bytes(jpeg())
    (tmp_path / "meta.json").write_text(json.dumps(about))
    (tmp_path / "records.jsonl").write_text(json.dumps(line))
    [record] = layout.read(tmp_path)
    assert record.targets == (((210.0, 120.0, 330.0, 200.0), (180.0, 90.0, 380.0, 240.0)),)
    assert record.longest_side == 224
