"""Checks that a tree of arrays, in memory or in a file, is the one that a config demands."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lfpc_jax.arrays import Tree
from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig


def check_tree(tree: Tree, cfg: ModelConfig, *, where: str | Path) -> None:
    """Compares keys and shapes. `where` names the tree in errors."""
    demanded, given = _by_key(spec.abstract(cfg, jnp.float32)), _by_key(tree)
    for key in sorted(demanded.keys() ^ given.keys()):
        fault = "lacks" if key in demanded else "has the unknown"
        raise ValueError(f"{where}: {fault} key {key!r}; the config is another model's")
    for key, leaf in given.items():
        if tuple(leaf.shape) != demanded[key].shape:
            raise ValueError(
                f"{where}: key {key!r} has shape {tuple(leaf.shape)}, the config demands "
                f"{demanded[key].shape}; the config is another model's"
            )


def _by_key(tree: Tree) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {".".join(str(part.key) for part in path): leaf for path, leaf in leaves}
