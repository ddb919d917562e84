"""Data sets by the text that commands and configs name them with: `FOLDER` or `READER:PATH`.

data/scenes                                the project's own layout
deep_eyes:FOLDER   think_lite:FOLDER       a folder of parquet files
visual_probe:FILE  pixel_reasoner:FILE     a JSON list, a parquet file
chain_of_focus:FILE:IMAGES                 a JSON list, and what its paths are relative to
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lfpc_jax.data import layout, public
from lfpc_jax.data.rejected import Rejected
from lfpc_jax.trajectory import Record

READERS: Mapping[str, Callable[..., Iterator[Record | Rejected]]] = {
    "layout": layout.read,
    "deep_eyes": public.deep_eyes,
    "visual_probe": public.visual_probe,
    "pixel_reasoner": public.pixel_reasoner,
    "chain_of_focus": public.chain_of_focus,
    "think_lite": public.think_lite,
}
_PATHS = {"chain_of_focus": 2}


def read(source: str) -> Iterator[Record | Rejected]:
    """The records of a set. Raises ValueError for an unknown reader or a path that does not
    exist."""
    name, rest = _parted(source)
    if name not in READERS:
        raise ValueError(f"set {source!r}: unknown reader {name!r}; known are {sorted(READERS)}")
    paths = [Path(part) for part in rest.split(":")] if name in _PATHS else [Path(rest)]
    if len(paths) != _PATHS.get(name, 1):
        raise ValueError(
            f"set {source!r}: {name} needs {_PATHS[name]} paths with a colon between them"
        )
    for path in paths:
        if not path.exists():
            raise ValueError(f"set {source!r}: {path} does not exist")
    return READERS[name](*paths)


def own_folder(source: str) -> Path | None:
    """The folder of a set in the project's layout, however it is named; None for other sets."""
    name, rest = _parted(source)
    return Path(rest) if name == "layout" else None


def _parted(source: str) -> tuple[str, str]:
    """The reader's name and the path or paths that it reads."""
    name, colon, rest = source.partition(":")
    return (name, rest) if colon and not Path(source).exists() else ("layout", source)
