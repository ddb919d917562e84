"""Floating-point operations and bytes, counted by hand, because the compiler counts the body of a
loop once and a Pallas kernel as nothing.

A product of [m, k] and [k, n] is 2 m k n. Causal attention counts half of its square. Norms, rotary
embeddings and softmax are left out, as is usual. A backward pass counts as two forward passes, and
full rematerialisation runs the layers' forward pass once more.
"""

import math

import jax
import jax.numpy as jnp

from lfpc_jax.model import spec
from lfpc_jax.model.config import ModelConfig


def text_forward(
    cfg: ModelConfig, tokens: int, context: float, *, logits: int | None = None
) -> int:
    """FLOPs of `tokens` tokens through the decoder, each attending to `context` keys on average;
    `logits` of them (default: all) also go through the vocabulary."""
    c = cfg.text
    attention = 4 * c.heads * c.head_dim * context * c.layers
    vocabulary = 2 * c.vocab * c.width * (tokens if logits is None else logits)
    return round(tokens * (2 * _weights(cfg, "text") + attention) + vocabulary)


def vision_forward(cfg: ModelConfig, windows: int, whole: int) -> int:
    """FLOPs of `windows` windows through the vision tower. Full layers attend within rows of
    `whole` windows."""
    c = cfg.vision
    patches = windows * c.window_patches
    merger = _weights(cfg, "vision", "merger") // c.merge**2
    full = len(c.full_layers)
    keys = full * whole * c.window_patches + (c.depth - full) * c.window_patches
    per_patch = 2 * (_weights(cfg, "vision", "layers") + _weights(cfg, "vision", "patch") + merger)
    return patches * (per_patch + 4 * c.width * keys)


def update(cfg: ModelConfig, *, tokens: int, context: float, windows: int, whole: int) -> int:
    """FLOPs of the forward and backward passes over so many packed tokens and windows."""
    layers = text_forward(cfg, tokens, context, logits=0) + vision_forward(cfg, windows, whole)
    vocabulary = 2 * cfg.text.vocab * cfg.text.width * tokens
    again = 1 if cfg.remat == "full" else 0
    return layers * (3 + again) + vocabulary * 4  # logits are always made again


def text_bytes(cfg: ModelConfig) -> int:
    """What a pass reads: the bytes of the decoder's weights and the vocabulary's, in the compute
    dtype."""
    head = cfg.text.vocab * cfg.text.width
    return (_weights(cfg, "text") + head) * jnp.dtype(cfg.dtype).itemsize


def cache_bytes(cfg: ModelConfig) -> int:
    """The bytes of one token's keys and values."""
    c = cfg.text
    return 2 * c.layers * c.kv_heads * c.head_dim * jnp.dtype(cfg.dtype).itemsize


def vision_bytes(cfg: ModelConfig) -> int:
    return _weights(cfg, "vision") * jnp.dtype(cfg.dtype).itemsize


def _weights(cfg: ModelConfig, *path: str) -> int:
    """The parameters of a part that multiply. Norms and biases are included, since they are
    small."""
    part = spec.spec_tree(cfg)
    for name in path:
        part = part[name]
    leaves = jax.tree.leaves(part, is_leaf=spec.is_param)
    return sum(math.prod(param.array_shape) for param in leaves)
