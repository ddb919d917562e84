"""Data sets by the text that commands and configs name them with: `FOLDER` or `READER:PATH`.

data/scenes                                the project's own layout
deep_eyes:FOLDER   think_lite:FOLDER       a folder of parquet files
visual_probe:FILE  pixel_reasoner:FILE     a JSON list, a parquet file
chain_of_focus:FILE:IMAGES                 a JSON list, and what its paths are relative to
text_vqa:PATH[:IMAGES][:BOXES]             JSON or parquet, the images, and boxes that people drew
doc_vqa:PATH[:IMAGES]                      the same without boxes; also info_vqa, st_vqa and
                                           text_vqa_boxes

`READER@METRIC:PATH` has the answers scored by another metric: rules, vqa, anls or anls_half.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from lfpc_jax.data import layout, public, vqa
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.trajectory import Metric, Record

READERS: Mapping[str, Callable[..., Iterator[Record | Rejected]]] = {
    "layout": layout.read,
    "deep_eyes": public.deep_eyes,
    "visual_probe": public.visual_probe,
    "pixel_reasoner": public.pixel_reasoner,
    "chain_of_focus": public.chain_of_focus,
    "think_lite": public.think_lite,
    "text_vqa": vqa.text_vqa,
    "text_vqa_boxes": vqa.text_vqa_boxes,
    "doc_vqa": vqa.doc_vqa,
    "info_vqa": vqa.info_vqa,
    "st_vqa": vqa.st_vqa,
}
_PATHS = {"chain_of_focus": (2, 2), "text_vqa": (1, 3)} | dict.fromkeys(
    ("text_vqa_boxes", "doc_vqa", "info_vqa", "st_vqa"), (1, 2)
)
"""The least and the most paths of readers that may take several."""


@dataclass(frozen=True)
class Named:
    """What a set's text says: the reader's name, the metric if it names one, and the rest."""

    reader: str
    metric: str
    rest: str

    @classmethod
    def parse(cls, source: str) -> "Named":
        before, colon, rest = source.partition(":")
        if not colon or Path(source).exists():
            return cls("layout", "", source)
        reader, _, metric = before.partition("@")
        return cls(reader, metric, rest)

    @property
    def paths(self) -> list[Path]:
        several = self.reader in _PATHS
        return [Path(part) for part in (self.rest.split(":") if several else [self.rest])]


def read(source: str) -> Iterator[Record | Rejected]:
    """The records of a set. Raises ValueError for an unknown reader or metric, and for a path that
    does not exist."""
    named = Named.parse(source)
    if named.reader not in READERS:
        raise ValueError(
            f"set {source!r}: unknown reader {named.reader!r}; known are {sorted(READERS)}"
        )
    if named.metric and named.metric not in get_args(Metric):
        raise ValueError(
            f"set {source!r}: unknown metric {named.metric!r}; known are {get_args(Metric)}"
        )
    least, most = _PATHS.get(named.reader, (1, 1))
    if not least <= len(named.paths) <= most:
        count = f"{least}" if least == most else f"{least} to {most}"
        raise ValueError(
            f"set {source!r}: {named.reader} needs {count} paths with a colon between them"
        )
    for path in named.paths:
        if not path.exists() and not ("*" in path.name and vqa.files_of(path)):
            raise ValueError(f"set {source!r}: {path} does not exist")
    entries = READERS[named.reader](*named.paths)
    return _scored_by(named.metric, entries) if named.metric else entries


def names_reader(source: str) -> bool:
    """Whether the text begins with a known reader."""
    return ":" in source and Named.parse(source).reader in READERS


def own_folder(source: str) -> Path | None:
    """The folder of a set in the project's layout, however it is named; None for other sets."""
    named = Named.parse(source)
    return Path(named.rest) if named.reader == "layout" else None


def _scored_by(metric: str, entries: Iterator[Record | Rejected]) -> Iterator[Record | Rejected]:
    """The entries with this metric. A record without references is compared with its answer."""
    for entry in entries:
        if isinstance(entry, Record):
            references = entry.references or (() if metric == "rules" else (entry.answer,))
            entry = replace(entry, metric=metric, references=references)  # type: ignore[arg-type]
        yield entry
