"""The first parameters of a small model that is trained from scratch.

They differ from those of a large model, so that a few hundred updates on a CPU teach it something
(docs/log.md has what each difference is worth):
- matrices keep the scale of their inputs, where large models use a fixed deviation of 0.02;
- the final norm begins large and the unembedding at zero, so that the head learns at once and the
  layers below it slowly. If both learn equally fast, the model learns the format of a reply first
  and comes to ignore the picture;
- the filters of a patch are waves of many directions and lengths, and plain colours.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lfpc_jax.arrays import Tree
from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig

_NORM = 8.0
_FILTER = 0.15


def first_parameters(cfg: ModelConfig, seed: int) -> Tree:
    """All parameters, in float32."""
    params = spec.init(jax.random.key(seed), cfg, dtype="float32")
    params = jax.tree.map(_scaled, spec.spec_tree(cfg), params, is_leaf=spec.is_param)
    params["norm"] *= _NORM
    params["unembed"] *= 0
    params["vision"]["patch"] = jnp.asarray(_waves(cfg.vision.patch, cfg.vision.width, seed))
    return params


def _scaled(param: spec.Param, value: jax.Array) -> jax.Array:
    """Scales a matrix so that its outputs have the scale of its inputs; other parameters are
    returned unchanged."""
    if not param.inputs:
        return value
    return value / (0.02 * math.sqrt(math.prod(param.shape[: param.inputs])))


def _waves(side: int, count: int, seed: int) -> Float[np.ndarray, "pixels count"]:
    """Filters of a patch. Every fourth is a plain colour, the others are waves. All fade to the
    edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    fading = np.exp(-(x**2 + y**2) / (2 * (0.43 * side) ** 2))
    filters = []
    for number in range(count):
        if number % 4 == 0:
            colour, wave = rng.standard_normal(3), np.ones_like(x)
        else:
            colour = 1 + 0.3 * rng.standard_normal(3)
            period = math.exp(rng.uniform(math.log(0.32 * side), math.log(1.3 * side)))
            turn, phase = rng.uniform(0, math.pi), rng.uniform(0, 2 * math.pi)
            along = x * math.cos(turn) + y * math.sin(turn)
            wave = np.cos(2 * math.pi * along / period + phase)
        both_frames = np.broadcast_to(wave * fading, (2, side, side))
        whole = (colour[:, None, None, None] * both_frames).reshape(-1)
        filters.append(_FILTER * whole / np.linalg.norm(whole))
    return np.stack(filters, axis=1).astype(np.float32)
