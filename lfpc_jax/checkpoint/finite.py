"""Refuses weights that hold NaN or infinite numbers, by name, before they are used.

A model with one such number gives random answers and scores 0, without an error. So loaded arrays
are checked once, on the devices that hold them: each array is reduced as it is sharded, and every
process gets the result.
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
    """Raises ValueError, in every process, if arrays of `tree` are not finite.

    `specs` is the tree of `Param` that names them; `where` names the model in the error.
    """
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
            f"{', '.join(names[:_NAMED])}{more}; copy the model again, or, if the run that trained "
            "it diverged, take an earlier checkpoint"
        )


def _sound(leaf: jax.Array, stacked: bool) -> jax.Array:
    """Whether an array is finite; for a stacked array, one answer for each layer."""
    replicated = None
    if isinstance(leaf.sharding, NamedSharding):
        replicated = NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return _program(replicated)(leaf, stacked)


@cache
def _program(replicated: NamedSharding | None) -> Any:
    return jax.jit(_is_finite, static_argnums=1, out_shardings=replicated)


def _is_finite(leaf: jax.Array, stacked: bool) -> jax.Array:
    # A sum of zeros is NaN if anything is NaN or infinite. On a CPU `isfinite(x).all()` allocates
    # its flags and takes three times as long, and `max` ignores NaN.
    axes = tuple(range(int(stacked), leaf.ndim))
    return jnp.isfinite((leaf * 0).sum(axes))


def _name(path: tuple, param: Param, layer: int) -> str:
    """The tensor's name in the model's files; LoRA's factors, which they lack, by key and layer."""
    if param.hf:
        return param.hf_names[layer]
    return f"{'.'.join(str(part.key) for part in path)}, layer {layer}"
