"""An estimate of a training step's memory by hand, used to choose what to compile and never shown.
With full rematerialisation it is up to a sixth above the compiler's figure."""

import jax.numpy as jnp

from lfpc_jax.model.config import ModelConfig
from lfpc_jax.plan import counts
from lfpc_jax.shapes import TrainShapes

_BLOCK = 512
"""Tokens whose logits exist at once; see `model/logprobs.py`."""

_ROUGH = 0.9
"""The compiler's figure over the sum below, at most; some of its parts never meet."""


def update_bytes(
    cfg: ModelConfig, shapes: TrainShapes, windows: int, *, shards: int, tensor: int
) -> float:
    """The temporaries of an update on one chip, in bytes."""
    c, v = cfg.text, cfg.vision
    narrow = jnp.dtype(cfg.dtype).itemsize
    weights = (counts.text_bytes(cfg) + counts.vision_bytes(cfg)) / (shards * tensor)
    tokens, patches = shapes.rows * shapes.row_tokens, windows * v.window_patches
    head = narrow * c.vocab * c.width / tensor
    logits = 4 * shapes.rows * _BLOCK * c.vocab / tensor
    layer = 2 * narrow * 3 * c.width * c.mlp / tensor
    gradients_and_copies = 2 * weights * 4 / narrow + weights
    kept: float = narrow * (tokens * c.width * c.layers + patches * v.width * v.depth)
    if cfg.remat != "full":
        inner = 2 * c.heads * c.head_dim + 2 * c.kv_heads * c.head_dim + 2 * c.mlp + c.width
        kept += narrow * tokens * c.layers * inner / tensor
        kept += narrow * patches * v.depth * (5 * v.width + 2 * v.mlp)
    working = narrow * max(4 * tokens * c.mlp / tensor, 4 * patches * (v.mlp + 2 * v.width))
    return _ROUGH * (gradients_and_copies + 2 * head + 3 * logits + 2 * layer + kept + working)
