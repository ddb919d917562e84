"""Writes records in the benchmarks' own formats, so that readers of the benchmarks can read them.

HR-Bench is a table with four rows a sample, each with the image in base64, and the options rotated
by one from row to row. V* has a folder a category, and in it an image and a JSON file of the same
name for each sample. There option 0 is the right one, and boxes are (x, y, width, height).
"""

import base64
import csv
import json
from collections.abc import Iterable
from pathlib import Path

from lfpc_jax.trajectory import Record

HR_BENCH_COLUMNS = (
    *("index", "question", "answer", "category"),
    *("A", "B", "C", "D", "cycle_category", "image"),
)
V_STAR_FOLDERS = {"single": "direct_attributes", "cross": "relative_position"}
_V_STAR_OPTIONS = {"single": 4, "cross": 2}
_LETTERS = "ABCD"


def write_hr_bench(path: Path, records: Iterable[Record]) -> None:
    """Writes the table. Records need embedded JPEG or PNG bytes and four options."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(HR_BENCH_COLUMNS)
        index = 0
        for record in records:
            _require(record, 4, "HR-Bench")
            image = base64.b64encode(_bytes(record)).decode()
            for cycle in range(4):
                options = record.options[cycle:] + record.options[:cycle]
                answer = _LETTERS[(_LETTERS.index(record.answer) - cycle) % 4]
                row = (index, record.question, answer, record.category, *options, cycle, image)
                table.writerow(row)
                index += 1


def write_v_star(folder: Path, samples: Iterable[tuple[Record, tuple[str, ...]]]) -> None:
    """Writes the folders. Each record comes with the names of its targets; of nested boxes the
    smallest are written."""
    for name in V_STAR_FOLDERS.values():
        (folder / name).mkdir(parents=True, exist_ok=True)
    for place, (record, names) in enumerate(samples):
        _require(record, _V_STAR_OPTIONS[record.category], "V*")
        right = record.options[_LETTERS.index(record.answer)]
        boxes = [nest[0] for nest in record.targets]
        sample = {
            "target_object": list(names),
            "bbox": [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes],
            "question": record.question,
            "options": [right, *(option for option in record.options if option != right)],
        }
        stem = folder / V_STAR_FOLDERS[record.category] / f"sa_{place:06d}"
        stem.with_suffix(".jpg").write_bytes(_bytes(record))
        stem.with_suffix(".json").write_text(json.dumps(sample))


def _require(record: Record, options: int, benchmark: str) -> None:
    if record.category not in V_STAR_FOLDERS or len(record.options) != options:
        raise ValueError(
            f"{record.id}: category {record.category!r} with {len(record.options)} options; "
            f"{benchmark} needs single or cross, here with {options} options"
        )


def _bytes(record: Record) -> bytes:
    if record.picture.data is None:
        raise ValueError(f"{record.id}: its picture is a file; embed its bytes first")
    return record.picture.data
