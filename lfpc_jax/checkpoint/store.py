"""Parameters in Orbax (TensorStore), saved under one mesh and restored under any mesh.

    DIR/params/    the tree of parameters, as an Orbax item
    DIR/hf/        config, tokenizer and processor files of the Hugging Face folder
    DIR/lfpc.json  format, the folder's origin, and size and checksum of every other file

A folder appears only when it is complete, and is verified when it is opened.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.checkpoint import assets, faults, manifest, staging
from lfpc_jax.checkpoint.demand import check_tree
from lfpc_jax.checkpoint.keys import Origin
from lfpc_jax.checkpoint.manifest import Manifest
from lfpc_jax.jsonfile import OTHER_SHAPE, Checked, brief, read_object
from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig

FORMAT = 1
_DESCRIPTION = "lfpc.json"
_PARAMS = "params"
_ASSETS = "hf"
_CHUNK_BYTES = 64 * 2**20  # Orbax's default chunk is all of a leaf that a device holds


@dataclass(frozen=True)
class OpenedStore:
    """A verified folder; `model.config.from_folder(store.assets)` is its config."""

    path: Path
    origin: Origin

    @property
    def params(self) -> Path:
        return self.path / _PARAMS

    @property
    def assets(self) -> Path:
        return assets_of(self.path)


def save(
    params: Tree,
    folder: str | Path,
    *,
    assets_from: str | Path,
    origin: Origin,
    overwrite: bool = False,
) -> None:
    with staging.staged(folder, overwrite=overwrite) as staged:
        chunked = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES), params)
        faults.hush()
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            try:
                checkpointer.save(staged / _PARAMS, args=ocp.args.StandardSave(params, chunked))
            except Exception as error:
                raise faults.of_writing(Path(folder), error) from None
        if jax.process_index() == 0:
            (staged / _ASSETS).mkdir()
            assets.copy(assets_from, staged / _ASSETS)
            files = manifest.describe(staged)
            description = {"format": FORMAT, "origin": asdict(origin), "files": files}
            (staged / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


def is_store(folder: str | Path) -> bool:
    """Whether it is a folder of this kind, even if it is damaged."""
    return (Path(folder) / _DESCRIPTION).is_file()


def assets_of(folder: str | Path) -> Path:
    return Path(folder) / _ASSETS


def open_store(folder: str | Path) -> OpenedStore:
    folder = Path(folder).absolute()
    origin, files = _described(folder)
    manifest.verify(folder, files)
    return OpenedStore(folder, origin)


def listed(folder: str | Path) -> Manifest:
    """The manifest of the files that hold the parameters, as it was written."""
    _, files = _described(Path(folder))
    return {name: entry for name, entry in files.items() if name.startswith(f"{_PARAMS}/")}


def _described(folder: Path) -> tuple[Origin, Manifest]:
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a folder that `to-orbax` has written")
    raw = read_object(path)
    try:
        version, origin, files = raw["format"], Origin.from_json(raw["origin"]), raw["files"]
    except OTHER_SHAPE as error:
        raise ValueError(f"{path}: is corrupt ({error!r:.200}); copy {folder} again") from error
    Checked(path).mapping("files", files)
    if not any(name.startswith(f"{_PARAMS}/") for name in files):
        raise ValueError(f"{path}: is corrupt (it lists no weights); copy {folder} again")
    if version != FORMAT:
        raise ValueError(
            f"{path}: has format {brief(version)}, this version reads {FORMAT}; convert it again"
        )
    return origin, files


def restore(
    store: OpenedStore, cfg: ModelConfig, *, dtype: Any = None, mesh: Mesh | None = None
) -> Tree:
    """The parameters, sharded over `mesh`, in `dtype` or in the stored dtype."""
    return restore_params(store.params, cfg, dtype=dtype, mesh=mesh)


def restore_params(
    item: Path, cfg: ModelConfig, *, dtype: Any = None, mesh: Mesh | None = None
) -> Tree:
    """`restore` for an Orbax item alone, such as that of a training checkpoint."""
    handler = ocp.StandardCheckpointHandler(restore_concurrent_gb=_one_leaf_gb(cfg))
    faults.hush()
    with ocp.Checkpointer(handler) as checkpointer:
        with faults.reading(item):
            stored = checkpointer.metadata(item).item_metadata
        if stored is None:
            raise ValueError(f"{item}: is no Orbax item, or is incomplete; copy it again")
        with faults.reading(item):
            check_tree(stored.tree, cfg, where=item)
        targets = jax.tree.map(
            lambda target, leaf: target.update(
                dtype=np.dtype(dtype or leaf.dtype),
                sharding=target.sharding or jnp.zeros(()).sharding,
            ),
            spec.abstract(cfg, jnp.float32, mesh),
            stored.tree,
        )
        with faults.reading(item):
            return checkpointer.restore(item, args=ocp.args.StandardRestore(targets))


def _one_leaf_gb(cfg: ModelConfig) -> int:
    """Orbax's limit on its memory beside the restored arrays; it must exceed the largest leaf."""
    leaves = jax.tree.leaves(spec.abstract(cfg, jnp.float32))
    return 1 + max(leaf.size * leaf.dtype.itemsize for leaf in leaves) // 10**9
