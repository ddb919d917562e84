"""V* as published, in both forms.

Folders: `direct_attributes` and `relative_position`, an image and a JSON file of the same name a
sample. The right option comes first there, so options are shuffled, by seed and sample. Boxes are
(x, y, width, height) in pixels of the original; what reaches out of the image is cut off.

The newer list, `test_questions.jsonl`: options are lines of the text, "(A) rubber", in an order
that stays; no boxes. What follows the options there tells how to answer, which our prompt does. A
text without such lines is asked as it is, and its answer is the label.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfpc_jax.data.benchmarks import V_STAR_FOLDERS
from lfpc_jax.data.columns import check_columns
from lfpc_jax.data.pictures import measured
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.processing.geometry import Box, area, clamp
from lfpc_jax.trajectory import Nests, Picture, Record

DATASET = "v_star"
FOLDERS = tuple(V_STAR_FOLDERS.values())
FOLDER_KEYS = ("target_object", "bbox", "question", "options")
LIST_KEYS = ("image", "text", "category", "question_id", "label")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_OPTION = re.compile(r"[ \t]*\(([A-Z])\)[ \t]*(.*?)[ \t]*")
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)


def read_folders(folder: Path, *, seed: int) -> Iterator[Record | Rejected]:
    """Both categories, each in the order of its names."""
    for category in FOLDERS:
        if not (folder / category).is_dir():
            raise ValueError(f"{folder}: has no folder {category}; is this V*?")
        for path in sorted((folder / category).glob("*.json")):
            name = f"{category}/{path.stem}"
            try:
                yield _sample(name, category, path, seed)
            except Unusable as error:
                yield Rejected.of(name, error)
            except _MALFORMED as error:
                yield Rejected(name, "malformed row", f"{type(error).__name__}: {error}")


def read_list(path: Path) -> Iterator[Record | Rejected]:
    """The list's lines in their order; images lie beside it."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name = f"{path.stem}/{number}"
            try:
                yield _entry(json.loads(line), path)
            except _MALFORMED as error:
                yield Rejected(name, "malformed row", f"{type(error).__name__}: {error}")


def _sample(name: str, category: str, path: Path, seed: int) -> Record:
    sample = json.loads(path.read_text(encoding="utf-8"))
    check_columns(path.parent, sample, FOLDER_KEYS)
    options = [str(option).strip() for option in sample["options"]]
    order = sorted(range(len(options)), key=lambda place: _drawn(seed, name, place))
    picture = _beside(path)
    return Record(
        id=name,
        question=str(sample["question"]).strip(),
        answer=chr(ord("A") + order.index(0)),
        picture=picture,
        options=tuple(options[place] for place in order),
        targets=_targets(sample["bbox"], picture),
        dataset=DATASET,
        category=category,
    )


def _entry(entry: dict[str, Any], path: Path) -> Record:
    check_columns(path, entry, LIST_KEYS)
    question, options = _question(str(entry["text"]))
    return Record(
        id=f"{path.stem}/{entry['question_id']}",
        question=question,
        answer=str(entry["label"]).strip(),
        picture=Picture(path=str(path.parent / entry["image"])),
        options=options,
        dataset=DATASET,
        category=str(entry["category"]).strip(),
    )


def _question(text: str) -> tuple[str, tuple[str, ...]]:
    """The question and its options, if lines (A), (B) and so on in their order are among it."""
    lines = text.strip().splitlines()
    found = [
        (place, match) for place, line in enumerate(lines) if (match := _OPTION.fullmatch(line))
    ]
    letters = "".join(match[1] for _, match in found)
    if len(found) < 2 or letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(found)]:
        return text.strip(), ()
    return "\n".join(lines[: found[0][0]]).strip(), tuple(match[2] for _, match in found)


def _beside(path: Path) -> Picture:
    for suffix in _SUFFIXES:
        if (image := path.with_suffix(suffix)).is_file():
            return Picture(path=str(image))
    raise Unusable("missing picture", f"{path}: no image of that name beside it")


def _targets(boxes: list[Any], picture: Picture) -> Nests:
    size = measured(picture)
    targets = []
    for box in boxes:
        x, y, width, height = map(float, box)
        inside = clamp(Box(x, y, x + width, y + height), size)
        if area(inside) <= 0:
            raise Unusable("box outside picture", f"{box} in {size[0]}x{size[1]}")
        targets.append((tuple(inside),))
    return tuple(targets)  # type: ignore[arg-type]


def _drawn(seed: int, name: str, place: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}\0{place}".encode(), digest_size=8).digest()
