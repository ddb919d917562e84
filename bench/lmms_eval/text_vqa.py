"""TextVQA as lmms-eval's own task has it, but from the published file, and with questions as they
are published: the model's system text says how to answer. Scores are lmms-eval's."""

from pathlib import Path
from typing import Any

from lmms_eval.tasks.textvqa.utils import textvqa_process_results
from PIL import Image

Row = dict[str, Any]


def pictures(row: Row) -> list[Image.Image]:
    with Image.open(Path("train_images") / f"{row['image_id']}.jpg") as picture:
        return [picture.convert("RGB")]


def question(row: Row) -> str:
    return row["question"]


def scored(row: Row, said: list[str]) -> dict[str, float]:
    return {"exact_match": textvqa_process_results(row, said)["exact_match"]}
