"""Reads a benchmark's questions, whatever the format of its files."""

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
from lfpc_jax.remote import hub
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
        """The digest of everything that an answer depends on."""
        return digest(self.records)


def kind_of(path: Path) -> Kind:
    """The format of a file or folder, by its name and content; "set" if a reader is named with it,
    as in `data.sources`."""
    if not path.exists() and sources.Named.parse(str(path)).reader != "layout":
        return "set"
    if path.is_dir():
        if any((path / name).is_file() for name in ("meta.json", "records.jsonl")):
            return "layout"
        if any((path / folder).is_dir() for folder in v_star.FOLDERS):
            return "v_star"
    elif path.is_file():
        if path.suffix in (".tsv", ".parquet"):
            return "hr_bench"
        if path.suffix == ".jsonl":
            return "v_star"
    raise ValueError(
        f"{path}: is no benchmark of a known format; give HR-Bench's .tsv or .parquet, V*'s folder "
        f"of {' and '.join(v_star.FOLDERS)} or its .jsonl, a folder in this project's layout, or "
        f"READER:PATH with a reader of {sorted(sources.READERS)}"
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
    """Reads all questions, or the first `limit`, and keeps the sound ones. Embedded images are
    written to `pictures`; `seed` orders the options of V*. If more than `max_share` of the
    questions are not sound, raises an error that lists them."""
    if (on_hub := hub.HubName.parse(path)) and on_hub.repo not in sources.PUBLISHED:
        name = name or _name_of(Path(on_hub.inside or on_hub.repo).stem)
        path = sources.located(str(path), path)
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
    name = name or _name_of(path.name if path.is_dir() else path.stem)
    if not re.fullmatch(r"[\w.+]+", name):
        raise ValueError(
            f"{path}: a benchmark called {name!r} cannot name files; call it NAME=PATH, with "
            "letters, digits, '_', '.' and '+'"
        )
    sound = audit(itertools.islice(entries, limit), name=str(path), max_share=max_share)
    return Benchmark(name, kind, sound.records, sound.rejected)


def _name_of(text: str) -> str:
    return re.sub(r"[^\w.+]", "_", text)


def _as_files(entries: Iterable[Record | Rejected], folder: Path) -> Iterator[Record | Rejected]:
    """The entries with embedded pictures written to files, so that none stays in memory."""
    for entry in entries:
        if isinstance(entry, Record) and entry.picture.data is not None:
            entry = replace(entry, picture=to_file(entry.picture.data, folder))
        yield entry
