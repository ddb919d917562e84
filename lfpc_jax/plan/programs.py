"""Programs before they are compiled, and the model's own: its forward and its gradient."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import sharding
from lfpc_jax.model import qwen, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.logprobs import token_logprobs
from lfpc_jax.trajectory import Images, Tokens


@dataclass(frozen=True)
class Sizes:
    """Shapes of a batch: rows of tokens, and images in one bucket of windows."""

    rows: int
    length: int
    images: int
    windows: int


@dataclass(frozen=True)
class Source:
    """A program before it is compiled: `lower` lowers it, and `kinds` are its arguments by kind
    (parameters, moments, cache, inputs)."""

    name: str
    lower: Callable[[], Any]
    kinds: Mapping[str, Any]

    @property
    def held(self) -> dict[str, int]:
        return {kind: bytes_per_chip(tree) for kind, tree in self.kinds.items()}


def forward_program(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> Source:
    """Vision tower and decoder to hidden states, from bfloat16 weights."""

    def forward(params: Tree, tokens: Tokens, images: Images) -> jax.Array:
        embeddings = qwen.encode_images(params, images, cfg=cfg)
        return qwen.hidden_states(params, tokens, embeddings, cfg=cfg)

    params = spec.abstract(cfg, jnp.bfloat16, mesh)
    batch = abstract_batch(cfg, mesh, sizes)
    lower = partial(_lowered, mesh, jax.jit(forward), params, *batch)
    return Source("forward", lower, {"parameters": params, "inputs": batch})


def gradient_program(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> Source:
    """The mean log-probability of every next token and its gradient in float32 masters, vision
    tower included, logits by blocks: a training step without its optimizer."""

    def loss(params: Tree, tokens: Tokens, images: Images) -> jax.Array:
        embeddings = qwen.encode_images(params, images, cfg=cfg)
        hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)
        targets = jnp.roll(tokens.ids, -1, axis=1)
        return -token_logprobs(params, hidden, targets, cfg=cfg).mean()

    params = spec.abstract(cfg, jnp.float32, mesh)
    batch = abstract_batch(cfg, mesh, sizes)
    placed = (None, spec.shardings(cfg, mesh))
    jitted = jax.jit(jax.value_and_grad(loss), out_shardings=placed)
    lower = partial(_lowered, mesh, jitted, params, *batch)
    return Source("gradient", lower, {"parameters": params, "inputs": batch})


def _lowered(mesh: Mesh, jitted: Any, *args: Any) -> Any:
    with jax.set_mesh(mesh):
        return jitted.lower(*args)


PROGRAMS: Mapping[str, Callable[[ModelConfig, Mesh, Sizes], Source]] = {
    "forward": forward_program,
    "gradient": gradient_program,
}


def abstract_batch(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> tuple[Tokens, Images]:
    def array(shape: tuple[int, ...], axes: tuple[str | None, ...], dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding(axes, shape, mesh))

    rows, images = (sizes.rows, sizes.length), sizes.images
    row = array(rows, ("batch", None), jnp.int32)
    positions = array((3, *rows), (None, "batch", None), jnp.int32)
    c = cfg.vision
    pixels = (images, sizes.windows, c.window_patches, 3 * c.patch**2)
    return (
        Tokens(ids=row, positions=positions, segments=row, places=row),
        Images(
            pixels=array(pixels, ("batch", None, None, None), jnp.uint8),
            grid=array((images, 2), ("batch", None), jnp.int32),
        ),
    )


def bytes_per_chip(tree: Any) -> int:
    """Of abstract arrays as they are sharded; of what has no sharding, whole."""

    def one(x: Any) -> int:
        shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
        return math.prod(shape) * x.dtype.itemsize

    return sum(one(leaf) for leaf in jax.tree.leaves(tree))
