"""Floating-point operations and bytes, counted by hand, because the compiler counts the body of a
loop once and a Pallas kernel as nothing.

A product of [m, k] and [k, n] is 2 m k n. Norms, rotary embeddings and softmax are left out, as is
usual. A backward pass counts as two forward passes. What rematerialisation computes again is
counted.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp

from lfpc_jax.arrays import Tree
from lfpc_jax.model import cache, parameters, spec
from lfpc_jax.model.config import ModelConfig, Remat
from lfpc_jax.model.parameters import Base, Trainable
from lfpc_jax.shapes import RolloutShapes, TrainShapes


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
    full = len(c.full_layers)
    keys = full * whole * c.window_patches + (c.depth - full) * c.window_patches
    return _vision_products(cfg, windows) + windows * c.window_patches * 4 * c.width * keys


def _vision_products(cfg: ModelConfig, windows: int) -> int:
    c = cfg.vision
    merger = _weights(cfg, "vision", "merger") // c.merge**2
    per_patch = 2 * (_weights(cfg, "vision", "layers") + _weights(cfg, "vision", "patch") + merger)
    return windows * c.window_patches * per_patch


@dataclass(frozen=True)
class TextWork:
    """FLOPs of a micro-batch of rows: forward only, and forward and backward."""

    score: int
    learn: int

    @classmethod
    def of(
        cls,
        cfg: ModelConfig,
        shapes: TrainShapes,
        places: int,
        keys: float,
        *,
        frozen: bool = False,
    ) -> "TextWork":
        """Every token attends to `keys` keys on average. Logits are made by blocks of places.
        `frozen` weights have no gradient."""
        tokens = shapes.rows * shapes.row_tokens
        logits = shapes.rows * _in_blocks(places)
        weights = text_forward(cfg, tokens, 0.0, logits=0)
        attention = text_forward(cfg, tokens, keys, logits=0) - weights
        vocabulary = 2 * cfg.text.vocab * cfg.text.width * logits
        products, scores = forward_and_backward(cfg.remat)
        learn = (products - frozen) * weights + scores * attention
        learn += (4 - frozen) * vocabulary  # logits are made again
        return cls(weights + attention + vocabulary, learn)


def vision_backward(cfg: ModelConfig, windows: int, whole: int, *, frozen: bool = False) -> int:
    """FLOPs of the tower's backward pass, which computes it anew. `frozen` weights have no
    gradient."""
    products, scores = forward_and_backward(cfg.tower_remat or cfg.remat)
    products -= frozen
    attention = vision_forward(cfg, windows, whole) - _vision_products(cfg, windows)
    return products * _vision_products(cfg, windows) + scores * attention


def forward_and_backward(remat: Remat) -> tuple[int, int]:
    """How many forward passes the forward and backward passes are, for products with weights and
    for attention."""
    computed_again = {
        "none": (0, 0), "dots": (0, 1), "attended": (1, 0), "full": (1, 1), "offload": (1, 1),
    }  # fmt: skip
    products, scores = computed_again[remat]
    return 3 + products, 3 + scores


def passes(remat: Remat) -> int:
    """How often an update's program reads the weights of its layers."""
    return forward_and_backward(remat)[0]


def _in_blocks(places: int) -> int:
    """Places padded to the blocks in which logits are made; see `model/logprobs.py`."""
    block = min(512, places)
    return -(-places // block) * block


@lru_cache(maxsize=128)
def trained_bytes(cfg: ModelConfig, trainable: Trainable, name: Literal["text", "vision"]) -> int:
    """The bytes in float32 of what is trained of the tower, or of all else."""
    trained = parameters.specs(cfg, trainable)[0]
    part = {key: value for key, value in trained.items() if (key == "vision") == (name == "vision")}
    return 4 * _count(part)


def text_bytes(cfg: ModelConfig, base: Base = "same") -> int:
    """What a pass reads: the bytes of the decoder's weights and the vocabulary's, in the compute
    dtype or with a base of int8."""
    head, narrow = cfg.text.vocab * cfg.text.width, jnp.dtype(cfg.dtype).itemsize
    layers = _weights(cfg, "text") * (1 if base == "int8" else narrow)
    return layers + head * narrow


def token_bytes(cfg: ModelConfig) -> int:
    """The bytes of one token's keys and values."""
    c = cfg.text
    return 2 * c.layers * c.kv_heads * c.head_dim * jnp.dtype(cfg.dtype).itemsize


def heads_split(cfg: ModelConfig, tensor: int) -> int:
    """Over how many of the `tensor` chips that share a copy of the model its keys are split. If the
    key heads cannot be divided among them, each chip holds them all."""
    return tensor if cfg.text.kv_heads % tensor == 0 else 1


@dataclass(frozen=True)
class CacheBytes:
    """What a chip holds of the keys and values of a rollout engine: prompts, room for what slots
    have after them (`own`), and during a decode working copies of that on a CPU."""

    prompts: int
    own: int
    working: int

    @classmethod
    def of(
        cls, cfg: ModelConfig, shapes: RolloutShapes, *, groups: int = 1, tensor: int = 1
    ) -> "CacheBytes":
        """For `groups` copies of the model, each on `tensor` chips."""
        chips = groups * heads_split(cfg, tensor)

        def on_chip(rows: int, ids: int) -> int:
            return token_bytes(cfg) * rows * ids // chips

        copied = shapes.own_capacity + shapes.chunk if cache.positions_last(cfg) else 0
        return cls(
            prompts=on_chip(shapes.prefix_count, shapes.prefix_capacity),
            own=on_chip(shapes.slots, shapes.own_capacity),
            working=on_chip(shapes.slots, copied),
        )

    @property
    def total(self) -> int:
        return self.prompts + self.own + self.working


def vision_bytes(cfg: ModelConfig) -> int:
    return _weights(cfg, "vision") * jnp.dtype(cfg.dtype).itemsize


@lru_cache(maxsize=128)
def _weights(cfg: ModelConfig, *path: str) -> int:
    """The parameters of a part that multiply. Norms and biases are included, since they are
    small."""
    part = spec.spec_tree(cfg)
    for name in path:
        part = part[name]
    return _count(part)


def _count(part: Tree) -> int:
    leaves = jax.tree.leaves(part, is_leaf=spec.is_param)
    return sum(math.prod(param.array_shape) for param in leaves)
