"""Data sets by the text that commands and configs name them with: `FOLDER` or `READER:PATH`.

data/scenes                                the project's own layout
deep_eyes:FOLDER   think_lite:FOLDER       a folder of parquet files
visual_probe:FILE  pixel_reasoner:FILE     a JSON list, a parquet file
chain_of_focus:FILE:IMAGES                 a JSON list, and what its paths are relative to
text_vqa:PATH[:IMAGES][:BOXES]             JSON or parquet, the images, and boxes that people drew
doc_vqa:PATH[:IMAGES]                      the same without boxes; also info_vqa, st_vqa and
                                           text_vqa_boxes

`READER@METRIC:PATH` has the answers scored by another metric: rules, vqa, anls or anls_half.
`READER%1/2:PATH` is the first of two parts of the set, and `%2/2` the other; both may be given, the
metric first. A picture's records are all in the same part, which a hash of its file's name decides
(of its bytes if it is embedded). So parts are about as large as each other, share no picture, and
depend on neither the order of the records nor the place of the files.

Where a path is not here, it may be a name on the Hub (`remote/hub.py`): `OWNER/NAME`, or
`OWNER/NAME/FILE`. The sets of `PUBLISHED` need no reader before their name.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from lfpc_jax.data import layout, public, vqa
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.remote import hub
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
PUBLISHED: Mapping[str, str] = {
    "ChenShawn/DeepEyes-Datasets-47k": "deep_eyes",
    "Mini-o3/VisualProbe_train": "visual_probe",
    "TIGER-Lab/PixelReasoner-RL-Data": "pixel_reasoner",
    "russwang/ThinkLite-VL-hard-11k": "think_lite",
}
"""Readers of public sets by their names on the Hub."""
_TABLES = {"visual_probe": "*.json", "pixel_reasoner": "*.parquet", "chain_of_focus": "*.json"}
"""Readers of a table that pictures lie beside, and what the table is called."""
_PATHS = {"chain_of_focus": (2, 2), "text_vqa": (1, 3)} | dict.fromkeys(
    ("text_vqa_boxes", "doc_vqa", "info_vqa", "st_vqa"), (1, 2)
)
"""The least and the most paths of readers that may take several."""


@dataclass(frozen=True)
class Named:
    """What a set's text says: the reader's name, the metric and the part if it names one, and the
    rest."""

    reader: str
    metric: str
    rest: str
    part: str | None = None

    @classmethod
    def parse(cls, source: str) -> "Named":
        before, colon, rest = source.partition(":")
        if not colon or Path(source).exists():
            name = hub.HubName.parse(source)
            return cls(PUBLISHED.get(name.repo, "layout") if name else "layout", "", source)
        before, percent, part = before.partition("%")
        reader, _, metric = before.partition("@")
        return cls(reader, metric, rest, part if percent else None)

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
    first, *others = named.paths
    first = located(source, first, _TABLES.get(named.reader, ""))
    entries = READERS[named.reader](first, *(located(source, other) for other in others))
    if named.part is not None:
        entries = filter(_within(source, named.part), entries)
    return _scored_by(named.metric, entries) if named.metric else entries


def own_folder(source: str) -> Path | None:
    """The folder of a set in the project's layout, however it is named; None for other sets, and
    for one that is still to come from the Hub where nothing may be fetched."""
    named = Named.parse(source)
    if named.reader != "layout":
        return None
    path = Path(named.rest)
    try:
        return path if hub.HubName.parse(path) is None else located(source, path)
    except hub.NotHere:
        return None


def located(source: str, path: Path, table: str = "") -> Path:
    """The path itself, or what it names on the Hub, fetched if need be. A table that is named comes
    alone, since pictures are embedded in it. If `table` says what a reader's table is called, it
    comes with the whole repository, where its pictures are, and need not be named if it is the only
    one. Raises ValueError for what is neither here nor there."""
    if path.exists() or ("*" in path.name and vqa.files_of(path)):
        return path
    name = hub.HubName.parse(path)
    if name is None:
        raise ValueError(f"set {source!r}: {path} does not exist")
    alone = not table and name.inside.endswith((".parquet", ".tsv"))
    folder = hub.fetched(name, "dataset", (name.inside,) if alone else ())
    found = folder / name.inside
    if name.inside or not table:
        if not found.exists() and not vqa.files_of(found):
            raise ValueError(f"set {source!r}: {name.repo} has no file {name.inside!r}")
        return found
    tables = sorted(folder.rglob(table))
    if len(tables) != 1:
        listed = ", ".join(str(each.relative_to(folder)) for each in tables) or "none"
        raise ValueError(
            f"set {source!r}: one {table} is read, and {name.repo} has {listed}; name one, as "
            f"READER:{name.repo}/FILE"
        )
    return tables[0]


def _scored_by(metric: str, entries: Iterator[Record | Rejected]) -> Iterator[Record | Rejected]:
    """The entries with this metric. A record without references is compared with its answer."""
    for entry in entries:
        if isinstance(entry, Record):
            references = entry.references or (() if metric == "rules" else (entry.answer,))
            entry = replace(entry, metric=metric, references=references)  # type: ignore[arg-type]
        yield entry


def _within(source: str, part: str) -> Callable[[Record | Rejected], bool]:
    """Whether an entry is in the part. A rejected row is in that of its name, so that each is in
    one."""
    number, slash, parts = part.partition("/")
    if not (slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise ValueError(
            f"set {source!r}: part {part!r}; write it as 1/2 for the first of two parts"
        )

    def within(entry: Record | Rejected) -> bool:
        digest = hashlib.blake2b(_name(entry), digest_size=8).digest()
        return int.from_bytes(digest) % int(parts) == int(number) - 1

    return within


def _name(entry: Record | Rejected) -> bytes:
    """What decides which part an entry is in."""
    if isinstance(entry, Rejected):
        return entry.record.encode("utf-8", "surrogatepass")
    if entry.picture.data is not None:
        return entry.picture.data
    name = entry.id if entry.picture.path is None else Path(entry.picture.path).name
    return name.encode("utf-8", "surrogatepass")
