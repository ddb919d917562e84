"""Weights that are NaN or infinite are refused by name, before anything is computed with them.

A model with one such number answers in noise, scores 0 and says nothing. So what was loaded is
looked through once, where it lies: a reduction over each array, split as the array is, whose result
every process gets.
"""

from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lfpc_jax.arrays import Tree
from lfpc_jax.model import spec
from lfpc_jax.model.spec import Param

_NAMED = 3


def check_finite(tree: Tree, specs: Tree, *, where: str | Path) -> None:
    """Raises ValueError, in every process, for arrays of `where` that are not finite; `specs` is
    the tree of `Param` that names them."""
    params = jax.tree_util.tree_leaves_with_path(specs, is_leaf=spec.is_param)
    names = [
        _name(path, param, layer)
        for (path, param), leaf in zip(params, jax.tree.leaves(tree), strict=True)
        for layer, sound in enumerate(np.reshape(_sound(leaf, bool(param.stack)), -1))
        if not sound
    ]
    if names:
        more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
        total = sum(param.stack or 1 for _, param in params)
        raise ValueError(
            f"{where}: {len(names)} of {total} tensors hold numbers that are NaN or infinite: "
            f"{', '.join(names[:_NAMED])}{more}; copy the model again, or if the run that trained "
            "it diverged take an earlier checkpoint"
        )


def _sound(leaf: jax.Array, stacked: bool) -> jax.Array:
    """Whether it is finite, of a stacked one layer by layer."""
    everywhere = None
    if isinstance(leaf.sharding, NamedSharding):
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return _look(everywhere)(leaf, stacked)


@cache
def _look(everywhere: NamedSharding | None) -> Any:
    return jax.jit(_is_finite, static_argnums=1, out_shardings=everywhere)


def _is_finite(leaf: jax.Array, stacked: bool) -> jax.Array:
    """As a sum of zeros, which is NaN if anything is NaN or infinite. On a CPU XLA holds the flags
    of `isfinite(x).all()` beside the array and is three times as slow, and its `max` loses NaN."""
    axes = tuple(range(int(stacked), leaf.ndim))
    return jnp.isfinite((leaf * 0).sum(axes))


def _name(path: tuple, param: Param, layer: int) -> str:
    """As the model's files call it; what they do not have (LoRA's factors) by its place."""
    if param.hf:
        return param.hf_names[layer]
    return f"{'.'.join(str(part.key) for part in path)}, layer {layer}"
