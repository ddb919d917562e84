"""V* as published, in both forms.

Folders: `direct_attributes` and `relative_position` hold an image and a JSON file of the same name
for each sample. The right option comes first there, so options are shuffled by seed and sample.
Boxes are (x, y, width, height) in pixels of the original and are clipped to the image.

The newer list, `test_questions.jsonl`: options are lines of the text such as "(A) rubber", and keep
their order. There are no boxes. What follows the options says how to answer. It is left out, since
the project's own prompt says that, and counted in the log. A text with a line between its options,
which would be part of one, is rejected. A text without options is asked unchanged, and its answer
is the label.
"""

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.data.benchmarks import V_STAR_FOLDERS
from lfpc_jax.data.columns import check_columns
from lfpc_jax.data.pictures import measured
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.jsonfile import OTHER_SHAPE, parsed, read_object
from lfpc_jax.processing.geometry import Box, area, clamp
from lfpc_jax.trajectory import Nests, Picture, Record

log = logging.getLogger(__name__)

DATASET = "v_star"
FOLDERS = tuple(V_STAR_FOLDERS.values())
FOLDER_KEYS = ("target_object", "bbox", "question", "options")
LIST_KEYS = ("image", "text", "category", "question_id", "label")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
_OPTION = re.compile(r"[ \t]*\(([A-Z])\)[ \t]*(.*?)[ \t]*")


def read_folders(folder: Path, *, seed: int) -> Iterator[Record | Rejected]:
    """The samples of both categories, each in the order of its file names."""
    for category in FOLDERS:
        if not (folder / category).is_dir():
            raise ValueError(f"{folder}: has no folder {category}; is this V*?")
        for path in sorted((folder / category).glob("*.json")):
            name = f"{category}/{path.stem}"
            try:
                yield _sample(name, category, path, seed)
            except Unusable as error:
                yield Rejected.of(name, error)
            except OTHER_SHAPE as error:
                yield Rejected(name, "malformed row", f"{type(error).__name__}: {error!s:.200}")


def read_list(path: Path) -> Iterator[Record | Rejected]:
    """The list's lines in their order. Images lie beside it."""
    left_out: list[str] = []
    for number, line in enumerate(regular.lines(path), 1):
        if not line.strip():
            continue
        name = f"{path.stem}/{number}"
        try:
            yield _entry(parsed(line, name), path, left_out)
        except Unusable as error:
            yield Rejected.of(name, error)
        except OTHER_SHAPE as error:
            yield Rejected(name, "malformed row", f"{type(error).__name__}: {error!s:.200}")
    if left_out:
        log.info(
            "%s: %d questions have text after their options, and are asked without it; the first "
            "says %r", path, len(left_out), left_out[0],
        )  # fmt: skip


def _sample(name: str, category: str, path: Path, seed: int) -> Record:
    sample = read_object(path)
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


def _entry(entry: dict[str, Any], path: Path, left_out: list[str]) -> Record:
    check_columns(path, entry, LIST_KEYS)
    question, options, rest = _question(str(entry["text"]))
    left_out += [rest] if rest else []
    return Record(
        id=f"{path.stem}/{entry['question_id']}",
        question=question,
        answer=str(entry["label"]).strip(),
        picture=Picture(path=str(path.parent / entry["image"])),
        options=options,
        dataset=DATASET,
        category=str(entry["category"]).strip(),
    )


def _question(text: str) -> tuple[str, tuple[str, ...], str]:
    """The question, its options and what follows them, if there are lines (A), (B) and so on in
    their order; else the whole text."""
    lines = text.strip().splitlines()
    options = [
        (place, match) for place, line in enumerate(lines) if (match := _OPTION.fullmatch(line))
    ]
    letters = "".join(match[1] for _, match in options)
    if len(options) < 2 or letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(options)]:
        return text.strip(), (), ""
    places = [place for place, _ in options]
    first, last = places[0], places[-1]
    between = [lines[place].strip() for place in range(first, last) if place not in places]
    if any(between):
        raise Unusable("wrong options", f"{' '.join(between)!r} stands between the options")
    question, rest = "\n".join(lines[:first]), "\n".join(lines[last + 1 :])
    return question.strip(), tuple(match[2] for _, match in options), rest.strip()


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
