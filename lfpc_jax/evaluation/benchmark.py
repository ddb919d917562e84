"""A benchmark's questions, from whichever files it comes in."""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lfpc_jax.data import hr_bench, layout, sources, v_star
from lfpc_jax.data.audit import audit
from lfpc_jax.data.digest import digest
from lfpc_jax.data.pictures import to_file
from lfpc_jax.data.rejected import MAX_SHARE, Rejected
from lfpc_jax.trajectory import Record

Kind = Literal["hr_bench", "v_star", "layout", "set"]


@dataclass(frozen=True)
class Benchmark:
    name: str
    kind: Kind
    records: tuple[Record, ...]
    rejected: tuple[Rejected, ...]

    @property
    def digest(self) -> str:
        """Of everything that an answer depends on."""
        return digest(self.records)


def kind_of(path: Path) -> Kind:
    """What a file or folder is, by what it is called and what is in it; "set" for one that is named
    by its reader, as in `data.sources`."""
    if not path.exists() and sources.names_reader(str(path)):
        return "set"
    if path.is_dir():
        if (path / "meta.json").is_file():
            return "layout"
        if any((path / folder).is_dir() for folder in v_star.FOLDERS):
            return "v_star"
    elif path.is_file():
        if path.suffix in (".tsv", ".parquet"):
            return "hr_bench"
        if path.suffix == ".jsonl":
            return "v_star"
    raise ValueError(
        f"{path}: no benchmark is known by this; give HR-Bench's .tsv or .parquet, V*'s folder of "
        f"{' and '.join(v_star.FOLDERS)} or its .jsonl, a folder of our own layout, or READER:PATH "
        f"with a reader of {sorted(sources.READERS)}"
    )


def open_benchmark(
    path: Path,
    *,
    pictures: Path,
    seed: int,
    name: str = "",
    limit: int | None = None,
    max_share: float = MAX_SHARE,
) -> Benchmark:
    """The sound questions, all or the first `limit`; `pictures` is where embedded images go, and
    `seed` is of V*'s options. Stops with the list where more than `max_share` are not sound."""
    kind = kind_of(path)
    match kind:
        case "hr_bench":
            entries = hr_bench.read(path, pictures)
        case "v_star" if path.is_dir():
            entries = v_star.read_folders(path, seed=seed)
        case "v_star":
            entries = v_star.read_list(path)
        case "layout":
            entries = layout.read(path)
        case "set":
            entries = _as_files(sources.read(str(path)), pictures)
            path = sources.Named.parse(str(path)).paths[0]
    name = name or re.sub(r"[^\w.+]", "_", path.name if path.is_dir() else path.stem)
    if not re.fullmatch(r"[\w.+]+", name):
        raise ValueError(
            f"{path}: a benchmark called {name!r} cannot name files; call it NAME=PATH, with "
            "letters, digits, '_', '.' and '+'"
        )
    sound = audit(itertools.islice(entries, limit), name=str(path), max_share=max_share)
    return Benchmark(name, kind, sound.records, sound.rejected)


def _as_files(entries: Iterable[Record | Rejected], folder: Path) -> Iterator[Record | Rejected]:
    """The entries with embedded pictures written to files, so that none stays in memory."""
    for entry in entries:
        if isinstance(entry, Record) and entry.picture.data is not None:
            entry = replace(entry, picture=to_file(entry.picture.data, folder))
        yield entry
