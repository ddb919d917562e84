"""Programs before they are compiled, and two of a model alone: its forward and its gradient."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from lfpc_jax.processing.batch import empty_images, empty_tokens
from lfpc_jax.trajectory import Images, Tokens


@dataclass(frozen=True)
class Uncompiled:
    """A program before it is compiled: `lower` lowers it, and `kinds` are its arguments by kind
    (parameters, moments, gradients, prompts, own, inputs). A chip holds `beside` bytes besides
    these and its phase's."""

    name: str
    lower: Callable[[], Any]
    kinds: Mapping[str, Tree]
    beside: int = 0

    @property
    def held(self) -> dict[str, int]:
        """The bytes that the arguments hold on a chip, by kind."""
        return {kind: bytes_per_chip(tree) for kind, tree in self.kinds.items()}


@dataclass(frozen=True)
class Sizes:
    """Shapes of a batch: rows of tokens, and images in one bucket of windows."""

    rows: int
    length: int
    images: int
    windows: int


def forward_program(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> Uncompiled:
    """Vision tower and decoder up to the hidden states, from bfloat16 weights."""

    def forward(params: Tree, tokens: Tokens, images: Images) -> jax.Array:
        embeddings = qwen.encode_images(params, images, cfg=cfg)
        return qwen.hidden_states(params, tokens, embeddings, cfg=cfg)

    params = spec.abstract(cfg, jnp.bfloat16, mesh)
    prompts = abstract_prompts(cfg, mesh, sizes)
    lower = partial(_lowered, mesh, jax.jit(forward), params, *prompts)
    return Uncompiled("forward", lower, {"parameters": params, "inputs": prompts})


def gradient_program(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> Uncompiled:
    """A training step without its optimizer: the mean log-probability of every next token and its
    gradient in float32 masters, vision tower included, with logits by blocks."""

    def loss(params: Tree, tokens: Tokens, images: Images) -> jax.Array:
        embeddings = qwen.encode_images(params, images, cfg=cfg)
        hidden = qwen.hidden_states(params, tokens, embeddings, cfg=cfg)
        targets = jnp.roll(tokens.ids, -1, axis=1)
        return -token_logprobs(params, hidden, targets, cfg=cfg).mean()

    params = spec.abstract(cfg, jnp.float32, mesh)
    prompts = abstract_prompts(cfg, mesh, sizes)
    placed = (None, spec.shardings(cfg, mesh))
    jitted = jax.jit(jax.value_and_grad(loss), out_shardings=placed)
    lower = partial(_lowered, mesh, jitted, params, *prompts)
    return Uncompiled("gradient", lower, {"parameters": params, "inputs": prompts})


def _lowered(mesh: Mesh, jitted: Any, *args: Tree) -> Any:
    with jax.set_mesh(mesh):
        return jitted.lower(*args)


PROGRAMS: Mapping[str, Callable[[ModelConfig, Mesh, Sizes], Uncompiled]] = {
    "forward": forward_program,
    "gradient": gradient_program,
}


def abstract_prompts(cfg: ModelConfig, mesh: Mesh, sizes: Sizes) -> tuple[Tokens, Images]:
    """The abstract arrays that `processing.batch.collate` makes, with rows and images split over
    the mesh."""
    prompts = jax.eval_shape(
        lambda: (
            empty_tokens(sizes.rows, sizes.length, xp=jnp),
            empty_images(sizes.images, sizes.windows, cfg.vision.processor, xp=jnp),
        )
    )

    def split(x: jax.ShapeDtypeStruct, lead: int = 0) -> jax.sharding.Sharding:
        axes = (*(None,) * lead, "batch", *(None,) * (x.ndim - lead - 1))
        return sharding(axes, x.shape, mesh)

    tokens, images = jax.tree.map(split, prompts)
    tokens = replace(tokens, positions=split(prompts[0].positions, lead=1))
    return placed(prompts, (tokens, images))


def placed(shapes: Tree, shardings: Tree) -> Tree:
    """Abstract arrays with their place on a mesh. `shardings` is a tree like theirs, or one
    sharding for all."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, shapes)
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, shardings
    )


def bytes_per_chip(tree: Tree) -> int:
    """The bytes per chip of abstract arrays as they are sharded. An array without a sharding counts
    whole."""

    def held(x: jax.ShapeDtypeStruct) -> int:
        shape = x.sharding.shard_shape(x.shape) if x.sharding is not None else x.shape
        return math.prod(shape) * x.dtype.itemsize

    return sum(held(leaf) for leaf in jax.tree.leaves(tree))
