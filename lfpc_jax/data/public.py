"""The public training sets, each from files exactly as they are published.

Every reader streams: in the file's order it yields a `Record`, or a `Rejected` for a row that
cannot become one. An id is made of the file's name and the row, because published ids need not be
unique. Questions lose their `<image>` placeholder and nothing else: choices that are written into a
question stay there, and answers are free text. A record has one picture. Videos and rows with
several pictures are left out as unsuited, which are counted separately. Pictures that are embedded
in a table or an archive come as bytes: to train on such a set, write it to the layout once."""

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lfpc_jax import regular
from lfpc_jax.data import parquet, pictures
from lfpc_jax.data.rejected import Rejected, Unusable
from lfpc_jax.data.rows import (
    Row,
    embedded,
    json_list,
    name_within,
    parquet_files,
    picture_file,
    records,
    text,
)
from lfpc_jax.trajectory import Picture, Record

PLACEHOLDER = "<image>"


def deep_eyes(folder: Path) -> Iterator[Record | Rejected]:
    """DeepEyes-47k: every parquet file of the folder, in the order of their names; or one file.

    The question is `extra_info`'s or, without one, the prompt's, which wraps it in instructions.
    The answer is the reference that the set's own reward uses."""
    columns = ("prompt", "images", "reward_model", "extra_info", "data_source")

    def record(name: str, row: Row) -> Record:
        extra = row["extra_info"] or {}
        turns = [turn["content"] for turn in row["prompt"] if turn["role"] == "user"]
        return Record(
            id=name,
            question=_clean(extra.get("question") or turns[-1]),
            answer=text(row["reward_model"]["ground_truth"]),
            picture=embedded(_only(row["images"]), folder),
            dataset="deep_eyes",
            category=str(row["data_source"]),
        )

    for path in parquet_files(folder):
        name = f"deep_eyes/{name_within(path, folder)}"
        yield from records(name, parquet.rows(path, columns), record)


def visual_probe(path: Path) -> Iterator[Record | Rejected]:
    """VisualProbe, the JSON list; images lie beside it. No boxes are published."""

    def record(name: str, row: Row) -> Record:
        return Record(
            id=name,
            question=_clean(row["problem"]),
            answer=text(row["solution"]),
            picture=picture_file(_only(row["images"]), path.parent),
            dataset="visual_probe",
            category=str(row["data_source"]),
        )

    yield from records(f"visual_probe/{path.stem}", json_list(path), record)


def pixel_reasoner(path: Path) -> Iterator[Record | Rejected]:
    """PixelReasoner's parquet file; pictures from the folder beside it, or from its images.zip."""
    with _opened(path.parent / "images.zip") as images:

        def record(name: str, row: Row) -> Record:
            if row["is_video"]:
                raise Unusable("video", f"{row['image']}")
            answers = row["answer"]
            return Record(
                id=name,
                question=_clean(row["question"]),
                answer=_unboxed(answers if isinstance(answers, str) else answers[0]),
                picture=_file_or_member(_only(row["image"]), path.parent, images),
                dataset="pixel_reasoner",
            )

        columns = ("question", "answer", "image", "is_video")
        yield from records(f"pixel_reasoner/{path.stem}", parquet.rows(path, columns), record)


def chain_of_focus(path: Path, images: Path) -> Iterator[Record | Rejected]:
    """Chain-of-Focus, the JSON list of conversations, whose paths are relative to `images`.

    Only the first question, its picture and the last answer are used. Pictures that belong to the
    answering turns are not the question's.
    """

    def record(name: str, row: Row) -> Record:
        turns = row["messages"]
        question = next(turn["content"] for turn in turns if turn["role"] == "user")
        answer = [turn["content"] for turn in turns if turn["role"] == "assistant"][-1]
        asked_about = question.count(PLACEHOLDER) or len(row["images"])
        return Record(
            id=name,
            question=_clean(question),
            answer=_tagged_answer(answer),
            picture=picture_file(_only(row["images"][:asked_about]), images),
            dataset="chain_of_focus",
        )

    yield from records(f"chain_of_focus/{path.stem}", json_list(path), record)


def think_lite(folder: Path) -> Iterator[Record | Rejected]:
    """ThinkLite-VL hard 11k: every parquet file of the folder, or one file."""

    def record(name: str, row: Row) -> Record:
        return Record(
            id=name,
            question=_clean(row["problem"]),
            answer=text(row["answer"]),
            picture=embedded(row["image"], folder),
            dataset="think_lite",
        )

    for path in parquet_files(folder):
        name = f"think_lite/{name_within(path, folder)}"
        yield from records(name, parquet.rows(path, ("problem", "answer", "image")), record)


def _only(pictures: list[Any] | None) -> Any:
    if not pictures:
        raise Unusable("missing picture", "the row names none")
    if len(pictures) > 1:
        raise Unusable("several pictures", f"{len(pictures)} of them")
    return pictures[0]


def _opened(path: Path) -> "zipfile.ZipFile | nullcontext[None]":
    """The archive, or None if there is none."""
    if not path.exists():
        return nullcontext()
    regular.check(path)
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: {error}; download it again, or unpack what can be") from error


def _file_or_member(name: str, folder: Path, archive: zipfile.ZipFile | None) -> Picture:
    """The unpacked file or else the archive's member, whose name may begin with `images/` or
    not."""
    if archive is None or (folder / name).is_file():
        return picture_file(name, folder)
    for member in (name, f"images/{name}", name.removeprefix("images/")):
        try:
            if (size := archive.getinfo(member).file_size) > pictures.MOST_BYTES:
                detail = f"{archive.filename}: {name}: {size} bytes; at most {pictures.MOST_BYTES}"
                raise Unusable("unreadable picture", f"{detail} are read")
            return Picture(data=archive.read(member))
        except KeyError:
            continue
        except (zipfile.BadZipFile, OSError, zlib.error) as error:
            raise Unusable("unreadable picture", f"{archive.filename}: {name}: {error}") from error
    raise Unusable("missing picture", f"{name} is neither in {folder} nor in {archive.filename}")


def _clean(question: str | None) -> str:
    """The question without placeholders and without the space that they leave."""
    return re.sub(r"[ \t]{2,}", " ", text(question).replace(PLACEHOLDER, " ")).strip()


def _tagged_answer(text: str) -> str:
    """The content of the last pair of answer tags, or the whole text without any."""
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    return (tagged[-1] if tagged else text).strip()


def _unboxed(answer: str) -> str:
    r"""The content of the last `\boxed{...}`, with its inner braces; the whole text without one."""
    _, opening, rest = answer.rpartition(r"\boxed{")
    if not opening:
        return answer.strip()
    depth = 1
    for place, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return rest[:place].strip()
    raise Unusable("malformed row", f"unclosed brace in {answer!r}")
