"""A model folder of either kind, as a command's argument."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lfpc_jax.checkpoint import folder, huggingface, store
from lfpc_jax.cli import progress
from lfpc_jax.model import config
from lfpc_jax.model.config import ModelConfig


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """`assets` holds config, tokenizer and processor files."""

    cfg: ModelConfig
    params: Any
    assets: Path


def load_model(path: Path, *, dtype: str | None, mesh: Mesh | None) -> LoadedModel:
    """A Hugging Face folder, or one that `convert.py to-orbax` wrote. By default float32 on a CPU,
    bfloat16 elsewhere."""
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    if store.is_store(path):
        with progress.waiting(f"verifying {path}"):
            stored = store.open_store(path)
        cfg = config.from_folder(stored.assets, dtype=dtype)
        with progress.waiting("restoring"):
            return LoadedModel(
                cfg, store.restore(stored, cfg, dtype=dtype, mesh=mesh), stored.assets
            )
    cfg = config.from_folder(path, dtype=dtype)
    opened = folder.open_folder(path, cfg)
    with progress.bar("loading", opened.nbytes, of_bytes=True) as advance:
        params = huggingface.load(opened, cfg, dtype=dtype, mesh=mesh, advance=advance)
    return LoadedModel(cfg, params, path)
