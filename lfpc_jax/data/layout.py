"""The project's own layout: a table of records beside a folder of images.

    FOLDER/meta.json        format, version, number of records, where they came from, and which
                            records were left out when the set was written
    FOLDER/records.jsonl    or records.parquet, with the same columns
    FOLDER/images/00000/00000123.jpg

`image` is a path, relative to the folder or, for a picture that stays where it is, absolute. It is
null for a question in text alone. `targets` holds the boxes of each target, the smallest first, in
pixels of the upright original. `references` and `metric` are there only for records that have them:
in a JSONL file by line, in a parquet file as columns if any record does.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow

from lfpc_jax import regular
from lfpc_jax.data import parquet
from lfpc_jax.data.rejected import MAX_SHARE, Rejected, Unusable, check_share
from lfpc_jax.jsonfile import OTHER_SHAPE, Checked, brief, read_object
from lfpc_jax.trajectory import Metric, Picture, Record

Table = Literal["jsonl", "parquet"]

FORMAT = "lfpc_jax records"
VERSION = 1
_TABLES = tuple(f"records.{table}" for table in get_args(Table))
_PER_FOLDER = 1000
_LONGEST_SIDE = (1 << 31) - 1
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp"}
_SCHEMA = pyarrow.schema(
    {
        "id": pyarrow.string(),
        "question": pyarrow.string(),
        "answer": pyarrow.string(),
        "options": pyarrow.list_(pyarrow.string()),
        "targets": pyarrow.list_(pyarrow.list_(pyarrow.list_(pyarrow.float64()))),
        "image": pyarrow.string(),
        "longest_side": pyarrow.int32(),
        "dataset": pyarrow.string(),
        "category": pyarrow.string(),
    }
)
_GRADED = {"references": pyarrow.list_(pyarrow.string()), "metric": pyarrow.string()}


def write(
    folder: Path,
    entries: Iterable[Record | Rejected],
    *,
    table: Table = "jsonl",
    copy_files: bool = True,
    max_share: float = MAX_SHARE,
    about: dict[str, Any] | None = None,
) -> tuple[int, tuple[Rejected, ...]]:
    """Writes a new set while its records come. Returns the number of records and the rejected ones.

    Embedded pictures always become files. Pictures that are files are copied or, with `copy_files`
    off, named by their absolute path. `about` and the rejected records go into the meta file. If
    more than `max_share` are rejected, no meta file is written, and so there is no set.
    """
    if (folder / "meta.json").exists():
        raise ValueError(f"{folder}: holds a set already; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    count, rejected = 0, []

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal count
        for entry in entries:
            if isinstance(entry, Rejected):
                rejected.append(entry)
                continue
            try:
                image = _place_picture(folder, entry.picture, count, copy_files)
            except Unusable as error:
                rejected.append(Rejected.of(entry.id, error))
                continue
            count += 1
            yield _to_line(entry, image)

    path = folder / f"records.{table}"
    jsonl = folder / "records.jsonl"
    columns: set[str] = set()
    with jsonl.open("w", encoding="utf-8") as file:
        for line in lines():
            columns |= line.keys()
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if table == "parquet":
        parquet.write(path, _jsonl(jsonl), _schema(columns))
        jsonl.unlink()
    check_share(str(folder), rejected, count + len(rejected), max_share)
    meta = {
        "format": FORMAT,
        "version": VERSION,
        "records": path.name,
        "count": count,
        "about": about or {},
        "losses": [str(entry) for entry in rejected],
    }
    beside = folder / "meta.json.new"
    beside.write_text(json.dumps(meta, indent=2) + "\n")
    beside.replace(folder / "meta.json")
    return count, tuple(rejected)


def read(folder: Path) -> Iterator[Record | Rejected]:
    """The records in their order, with pictures as paths. Raises ValueError at the end of a table
    that does not have as many records as its meta file counts."""
    meta = read_meta(folder)
    path = folder / meta["records"]
    number = 0
    if path.suffix == ".parquet":
        lines = parquet.rows(path, tuple(_schema(parquet.names(path)).names))
    else:
        lines = _jsonl(path)
    for number, line in enumerate(lines, start=1):
        try:
            yield _from_line(line, folder)
        except OTHER_SHAPE as error:
            detail = f"{type(error).__name__}: {error!s:.200}"
            yield Rejected(f"{path}:{number}", "malformed row", detail)
    if number != meta["count"]:
        raise ValueError(
            f"{path}: has {number} records where meta.json counts {meta['count']}; if the file is "
            f'truncated, write the set again; if you edited it, write `"count": {number}` there'
        )


def read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not path.exists():
        raise ValueError(f"{path}: missing; {_remedy(folder)}")
    meta = read_object(path)
    if meta.get("format") != FORMAT or meta.get("version") != VERSION:
        raise ValueError(
            f"{path}: format {brief(meta.get('format'))} version {brief(meta.get('version'))}, "
            f"where {FORMAT!r} version {VERSION} is read; write the set again with this code"
        )
    check = Checked(path)
    check.whole("count", meta.get("count"), 0, 1 << 40)
    check.mapping("about", meta.get("about", {}))
    if meta.get("records") not in _TABLES:
        raise check.wrong("records", meta.get("records"), f"one of {', '.join(_TABLES)}")
    return meta


def _remedy(folder: Path) -> str:
    """What to do about a folder without its meta file, as after an interrupted command, or if a
    person wrote the records."""
    table = folder / "records.jsonl"
    if not table.is_file():
        return f"is {folder} a set in the project's layout?"
    count = sum(1 for _ in regular.lines(table))
    meta = {"format": FORMAT, "version": VERSION, "records": table.name, "count": count}
    return (
        "if a command was interrupted, run it again; if you wrote records.jsonl yourself and it is "
        f"whole, write this into meta.json:\n{json.dumps(meta, indent=2)}"
    )


def _schema(columns: Iterable[str]) -> pyarrow.Schema:
    """The columns that every set has, and those of the others that this one has."""
    present = set(columns)
    graded = [pyarrow.field(name, kind) for name, kind in _GRADED.items() if name in present]
    return pyarrow.schema([*_SCHEMA, *graded])


def _jsonl(path: Path) -> Iterator[Any]:
    """The values of the lines. A line that is not JSON comes as its bytes, from which no record can
    be made."""
    for line in regular.lines(path):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            yield line


def _place_picture(folder: Path, picture: Picture, place: int, copy_files: bool) -> str | None:
    """Writes the picture into the folder if it belongs there, and returns its name in the table."""
    if picture == Picture():
        return None
    if picture.data is None and not copy_files:
        return str(Path(str(picture.path)).absolute())
    if picture.data is not None:
        suffix = _SUFFIXES.get(picture.data[:2], ".bin")
    else:
        suffix = Path(str(picture.path)).suffix
    name = f"images/{place // _PER_FOLDER:05d}/{place:08d}{suffix}"
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if picture.data is not None:
        target.write_bytes(picture.data)
        return name
    try:
        regular.check(str(picture.path))
    except (OSError, ValueError) as error:
        raise Unusable("missing picture", str(error)) from error
    shutil.copyfile(str(picture.path), target)
    return name


def _to_line(record: Record, image: str | None) -> dict[str, Any]:
    return {
        "id": record.id,
        "question": record.question,
        "answer": record.answer,
        "options": list(record.options),
        "targets": [[list(box) for box in nest] for nest in record.targets],
        "image": image,
        "longest_side": record.longest_side,
        "dataset": record.dataset,
        "category": record.category,
    } | {name: value for name, value in record.entry().items() if name in _GRADED}


def _from_line(line: dict[str, Any], folder: Path) -> Record:
    if missing := [column for column in _SCHEMA.names if column not in line]:
        raise ValueError(f"no {', '.join(missing)}; a record has all of {', '.join(_SCHEMA.names)}")
    targets = []
    for nest in line["targets"]:
        boxes = [tuple(float(edge) for edge in box) for box in nest]
        if any(len(box) != 4 for box in boxes):
            raise ValueError(f"target {brief(nest)}: each box needs four numbers")
        targets.append(tuple(boxes))
    image, side = line["image"], line["longest_side"]
    metric = line.get("metric") or "rules"
    if metric not in get_args(Metric):
        raise ValueError(f"metric {brief(metric)}: must be one of {get_args(Metric)}")
    if side is not None and not (type(side) is int and 0 < side <= _LONGEST_SIDE):
        raise ValueError(f"longest_side {brief(side)}: must be null or a positive whole number")
    if not isinstance(line["options"], list):
        raise TypeError(f"options {brief(line['options'])}: must be a list")
    return Record(
        id=_text(line, "id"),
        question=_text(line, "question"),
        answer=_text(line, "answer"),
        picture=Picture() if image is None else Picture(path=str(folder / image)),
        options=tuple(str(option) for option in line["options"]),
        targets=tuple(targets),  # type: ignore[arg-type]
        longest_side=side,
        dataset=_text(line, "dataset"),
        category=_text(line, "category"),
        references=tuple(str(reference) for reference in line.get("references") or ()),
        metric=metric,  # type: ignore[arg-type]
    )


def _text(line: dict[str, Any], column: str) -> str:
    text = line[column]
    if not isinstance(text, str):
        raise TypeError(f"{column} {brief(text)}: must be text")
    return text
