"""Sets with several reference answers a question: TextVQA, DocVQA, InfoVQA and ST-VQA, and the
boxes that people drew for TextVQA (published with ViCrop).

Each comes as a JSON file with its images beside it, or as parquet files with the images in them. A
path is a file, a folder of parquet files, or a pattern such as `data/validation-*.parquet`. Rows
become records as `data.public` says. `references` are the published answers in their order;
`answer` is the one that most of them give, or the first of several that are as frequent, without
regard to letter case. TextVQA is scored by VQA accuracy, the others by ANLS. Rows of a test split
have no answers and are rejected.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lfpc_jax.data import parquet, pictures
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.data.rows import (
    Row,
    embedded,
    json_list,
    parquet_files,
    picture_file,
    records,
    text,
)
from lfpc_jax.jsonfile import OTHER_SHAPE, brief
from lfpc_jax.trajectory import Box4, Metric, Nests, Picture, Record, Size

_TEN = 10
"""The answers that people gave to a question of TextVQA."""
_SLACK = 2.0
"""Pixels by which a drawn box may stick out of its picture; it is cut there."""
_OTHER_SHAPE = 0.02
"""How far the aspect ratios of two sizes of the same picture may differ."""


def text_vqa(path: Path, *others: Path) -> Iterator[Record | Rejected]:
    """TextVQA. The other paths are, in any order, the folder of its images (`train_images` beside
    the file if it is not given) and the boxes of `text_vqa_boxes`, which become the targets of the
    questions that they belong to. A box of no question in the file is rejected."""
    drawn = [other for other in others if _holds_rows(other)]
    folders = [other for other in others if other not in drawn]
    if len(drawn) > 1 or len(folders) > 1:
        raise ValueError(
            f"text_vqa: {[str(other) for other in others]}: give the folder of images and the file "
            "of boxes, at most one of each"
        )
    images = folders[0] if folders else path.parent / "train_images"
    boxes = _Drawn.read(drawn[0]) if drawn else _Drawn()

    def record(name: str, row: Row) -> Record:
        picture = _picture(row, images, lambda: f"{row['image_id']}.jpg")
        made = _record(name, row, picture, _ten(row.get("answers")), "text_vqa", "vqa")
        return boxes.on(made, text(row["question_id"])) if drawn else made

    yield from boxes.rejected
    yield from _read("text_vqa", path, ("question_id", "answers"), record)
    yield from boxes.unused()


def text_vqa_boxes(path: Path, images: Path | None = None) -> Iterator[Record | Rejected]:
    """The questions of TextVQA for which people drew a box, with this box as the target. `images`
    is what a JSON file's paths are relative to."""

    def record(name: str, row: Row) -> Record:
        picture = _picture(row, images or path.parent)
        made = _record(name, row, picture, _ten(row["answer"]), "text_vqa_boxes", "vqa")
        size = pictures.size(picture)
        return _with_targets(made, [_target(_box(row["bbox"]), size, size)])

    yield from _read("text_vqa_boxes", path, ("answer", "dataset_id", "bbox"), record)


def doc_vqa(path: Path, images: Path | None = None) -> Iterator[Record | Rejected]:
    """DocVQA. The category is the first of a question's types."""

    def record(name: str, row: Row) -> Record:
        picture = _picture(row, images or path.parent)
        category = _first(row.get("question_types"))
        return _record(name, row, picture, _some(row.get("answers")), "doc_vqa", "anls", category)

    yield from _read("doc_vqa", path, ("answers", "question_types"), record)


def info_vqa(path: Path, images: Path | None = None) -> Iterator[Record | Rejected]:
    """InfoVQA. The category is the type of the answer, which only the validation split has."""

    def record(name: str, row: Row) -> Record:
        picture = _picture(row, images or path.parent, lambda: row["image_local_name"])
        category = _first(row.get("answer_type"))
        return _record(name, row, picture, _some(row.get("answers")), "info_vqa", "anls", category)

    yield from _read("info_vqa", path, ("answers", "answer_type"), record)


def st_vqa(path: Path, images: Path | None = None) -> Iterator[Record | Rejected]:
    """ST-VQA. The category is the set that the image was taken from."""

    def record(name: str, row: Row) -> Record:
        picture = _picture(row, images or path.parent, lambda: row["file_path"])
        category = text(row.get("dataset"))
        return _record(name, row, picture, _some(row.get("answers")), "st_vqa", "anls", category)

    yield from _read("st_vqa", path, ("answers", "dataset"), record)


def files_of(path: Path) -> list[Path]:
    """The files that a path stands for: itself, a folder's parquet files, or a pattern's."""
    if path.is_dir():
        return parquet_files(path)
    return [path] if path.exists() else sorted(path.parent.glob(path.name))


def _read(
    dataset: str, path: Path, columns: Sequence[str], record: Callable[[str, Row], Record]
) -> Iterator[Record | Rejected]:
    for file in files_of(path):
        name = file.relative_to(path) if path.is_dir() else Path(file.name)
        yield from records(f"{dataset}/{name.with_suffix('')}", _rows(file, columns), record)


def _rows(file: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows; of a parquet file the question, the image, and those of the columns that it has."""
    if file.suffix != ".parquet":
        yield from json_list(file, key="data")
        return
    present = parquet.names(file)
    yield from parquet.rows(
        file, ("question", "image", *(column for column in columns if column in present))
    )


def _record(
    name: str,
    row: Row,
    picture: Picture,
    answers: tuple[str, ...],
    dataset: str,
    metric: Metric,
    category: str = "",
) -> Record:
    given = [answer for answer in answers if answer]
    counts = Counter(answer.casefold() for answer in given)
    return Record(
        id=name,
        question=text(row["question"]),
        answer=max(given, key=lambda answer: counts[answer.casefold()], default=""),
        picture=picture,
        dataset=dataset,
        category=category,
        references=answers,
        metric=metric,
    )


def _picture(row: Row, images: Path, name: Callable[[], str] | None = None) -> Picture:
    """The embedded image, or the file that the row names in `image` or else as `name` says."""
    if "image" not in row and name is not None:
        return picture_file(name(), images)
    value = row["image"]
    return picture_file(value, images) if isinstance(value, str) else embedded(value, images)


def _answers(given: Any) -> tuple[str, ...]:
    if not given:
        raise Unusable("no answers", "the row has none, as in a test split; use another split")
    if not isinstance(given, list):
        raise Unusable("malformed row", f"the answers are {brief(given)}, no list")
    return tuple(map(text, given))


def _ten(given: Any) -> tuple[str, ...]:
    answers = _answers(given)
    if len(answers) != _TEN:
        raise Unusable("too few references", f"{len(answers)} answers, where there must be {_TEN}")
    return answers


def _some(given: Any) -> tuple[str, ...]:
    return tuple(filter(None, _answers(given)))


def _first(value: Any) -> str:
    return text(value[0] if isinstance(value, list) and value else value or "")


@dataclass
class _Drawn:
    """Drawn boxes by the question's id, each with the row that it comes from and the size of the
    picture that it was drawn on."""

    by_question: dict[str, list[tuple[str, Box4, Size]]] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "_Drawn":
        drawn = cls()
        for file in files_of(path):
            for place, row in enumerate(_rows(file, ("dataset_id", "bbox"))):
                name = f"text_vqa_boxes/{file.stem}/{place}"
                try:
                    box, size = _box(row["bbox"]), pictures.size(_picture(row, path.parent))
                    entry = name, box, size
                    drawn.by_question.setdefault(text(row["dataset_id"]), []).append(entry)
                except Unusable as error:
                    drawn.rejected.append(Rejected.of(name, error))
                except OTHER_SHAPE as error:
                    detail = f"{type(error).__name__}: {error!s:.200}"
                    drawn.rejected.append(Rejected(name, "malformed row", detail))
        return drawn

    def on(self, record: Record, question: str) -> Record:
        """The record with the boxes of this question as targets."""
        if question not in self.by_question:
            return record
        self.used.add(question)
        original = pictures.size(record.picture)
        boxes = [_target(box, size, original) for _, box, size in self.by_question[question]]
        return _with_targets(record, boxes)

    def unused(self) -> Iterator[Rejected]:
        for question, entries in self.by_question.items():
            for name, _, _ in entries if question not in self.used else ():
                yield Rejected(name, "box of no question", f"question {question!r} is not here")


def _with_targets(record: Record, boxes: Sequence[Box4]) -> Record:
    targets: Nests = tuple((box,) for box in boxes)
    return replace(record, targets=targets)


def _box(value: Any) -> Box4:
    """From x, y, width and height."""
    try:
        x, y, width, height = map(float, value)
    except (TypeError, ValueError, OverflowError) as error:
        detail = f"bbox {brief(value)}: must be four numbers"
        raise Unusable("malformed row", detail) from error
    return x, y, x + width, y + height


def _target(box: Box4, drawn_on: Size, original: Size) -> Box4:
    """A box in pixels of the original, which may be another size of the picture it was drawn on."""
    across, down = original[0] / drawn_on[0], original[1] / drawn_on[1]
    if abs(across / down - 1) > _OTHER_SHAPE:
        sizes = " and ".join(f"{width}x{height}" for width, height in (drawn_on, original))
        raise Unusable("box outside picture", f"drawn on a picture of another shape: {sizes}")
    x1, y1, x2, y2 = box
    return (
        _inside(x1 * across, original[0]),
        _inside(y1 * down, original[1]),
        _inside(x2 * across, original[0]),
        _inside(y2 * down, original[1]),
    )


def _inside(edge: float, limit: int) -> float:
    near = -_SLACK <= edge <= limit + _SLACK
    return min(max(edge, 0.0), float(limit)) if near else edge


def _holds_rows(path: Path) -> bool:
    return not path.is_dir() or any(path.glob("*.parquet"))
