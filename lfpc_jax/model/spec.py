"""The tree that describes every parameter.

Initial values, shardings, abstract targets for restore and planning, and the names and shapes of
the Hugging Face tensors all come from it. Layers are stacked: a leaf with `stack` layers is that
many tensors in a Hugging Face file and one array `[stack, *shape]` here.

The weight of a linear layer is `[in..., out...]` here, where the first `inputs` dimensions are the
inputs, and `[out, in]` in the file. So it is flattened to two dimensions and transposed.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed import sharding
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import with_layers

Weights = TypeVar("Weights", np.ndarray, jax.Array)
"""A nested dict whose leaves are arrays (or, in `spec_tree`, `Param`)."""


@dataclass(frozen=True)
class Param:
    """`held` is `int8` for a weight that is held as integers, and `scale` for the scale of the
    weight that is called `hf`; see `int8.py`."""

    shape: tuple[int, ...]
    axes: sharding.Axes
    init: Literal["normal", "zeros", "ones"]
    hf: str
    hf_shape: tuple[int, ...]
    inputs: int = 0
    stack: int = 0
    held: Literal["whole", "int8", "scale"] = "whole"

    def dtype_in(self, dtype: Any) -> Any:
        """The dtype of the array in a tree of `dtype`."""
        return jnp.int8 if self.held == "int8" else dtype

    @property
    def output_axes(self) -> sharding.Axes:
        """Of an array with a number for each output, such as a bias."""
        return tuple(None if axis == "embed" else axis for axis in self.axes[self.inputs :])

    @property
    def array_shape(self) -> tuple[int, ...]:
        return (self.stack, *self.shape) if self.stack else self.shape

    @property
    def array_axes(self) -> sharding.Axes:
        return (None, *self.axes) if self.stack else self.axes

    @property
    def hf_names(self) -> tuple[str, ...]:
        """A name for each layer, or a single name."""
        if not self.stack:
            return (self.hf,)
        return tuple(self.hf.format(layer) for layer in range(self.stack))

    @property
    def hf_order(self) -> tuple[int, ...]:
        """Our dimensions in the order of the Hugging Face tensor, before it is flattened."""
        ours = range(len(self.shape))
        return (*ours[self.inputs :], *ours[: self.inputs])

    def from_hf(self, tensor: Weights) -> Weights:
        """One layer's array from its Hugging Face tensor, on the same device."""
        theirs = tensor.reshape([self.shape[i] for i in self.hf_order])
        return theirs.transpose([self.hf_order.index(i) for i in range(len(self.shape))])

    def to_hf(self, array: Weights) -> Weights:
        """The inverse of `from_hf`."""
        return array.transpose(self.hf_order).reshape(self.hf_shape)


def spec_tree(cfg: ModelConfig) -> Tree:
    """The tree of `Param`; Hugging Face names are those of the published files."""
    text = cfg.text
    embedding = ("vocab", "embed")
    tree = {
        "embed": _plain("model.embed_tokens.weight", (text.vocab, text.width), embedding, "normal"),
        "text": _text_layers(cfg),
        "norm": _plain("model.norm.weight", (text.width,), (None,), "ones"),
        "vision": _vision(cfg),
    }
    if not cfg.tied:
        tree["unembed"] = _plain("lm_head.weight", (text.vocab, text.width), embedding, "normal")
    return tree


def _text_layers(cfg: ModelConfig) -> Tree:
    c = cfg.text
    at = "model.layers.{}."

    def projection(name: str, heads: int, axis: str) -> Tree:
        shape, axes = (c.width, heads, c.head_dim), ("embed", axis, None)
        return _linear(f"{at}self_attn.{name}", shape, axes, bias=True, stack=c.layers)

    def linear(name: str, shape: tuple[int, ...], axes: sharding.Axes, inputs: int = 1) -> Tree:
        return _linear(f"{at}{name}", shape, axes, inputs=inputs, stack=c.layers)

    def norm(name: str) -> Param:
        return _plain(f"{at}{name}.weight", (c.width,), (None,), "ones", stack=c.layers)

    return {
        "norm1": norm("input_layernorm"),
        "q": projection("q_proj", c.heads, "heads"),
        "k": projection("k_proj", c.kv_heads, "kv_heads"),
        "v": projection("v_proj", c.kv_heads, "kv_heads"),
        "o": linear(
            "self_attn.o_proj", (c.heads, c.head_dim, c.width), ("heads", None, "embed"), inputs=2
        ),
        "norm2": norm("post_attention_layernorm"),
        "gate": linear("mlp.gate_proj", (c.width, c.mlp), ("embed", "mlp")),
        "up": linear("mlp.up_proj", (c.width, c.mlp), ("embed", "mlp")),
        "down": linear("mlp.down_proj", (c.mlp, c.width), ("mlp", "embed")),
    }


def _vision(cfg: ModelConfig) -> Tree:
    c = cfg.vision
    at = "visual.blocks.{}."
    merged = c.width * c.merge**2
    patch = (3, c.temporal_patch, c.patch, c.patch)

    def linear(name: str, shape: tuple[int, ...], axes: sharding.Axes, *, inputs: int = 1) -> Tree:
        return _linear(f"{at}{name}", shape, axes, bias=True, inputs=inputs, stack=c.depth)

    def norm(name: str) -> Param:
        return _plain(f"{at}{name}.weight", (c.width,), (None,), "ones", stack=c.depth)

    return {
        "patch": Param(
            shape=(math.prod(patch), c.width),
            axes=(None, "embed"),
            init="normal",
            hf="visual.patch_embed.proj.weight",
            hf_shape=(c.width, *patch),
            inputs=1,
        ),
        "layers": {
            "norm1": norm("norm1"),
            "qkv": linear(
                "attn.qkv", (c.width, 3, c.heads, c.head_dim), ("embed", None, "heads", None)
            ),
            "proj": linear(
                "attn.proj", (c.heads, c.head_dim, c.width), ("heads", None, "embed"), inputs=2
            ),
            "norm2": norm("norm2"),
            "gate": linear("mlp.gate_proj", (c.width, c.mlp), ("embed", "mlp")),
            "up": linear("mlp.up_proj", (c.width, c.mlp), ("embed", "mlp")),
            "down": linear("mlp.down_proj", (c.mlp, c.width), ("mlp", "embed")),
        },
        "merger": {
            "norm": _plain("visual.merger.ln_q.weight", (c.width,), (None,), "ones"),
            "fc1": _linear("visual.merger.mlp.0", (merged, merged), ("embed", "mlp"), bias=True),
            "fc2": _linear("visual.merger.mlp.2", (merged, c.out), ("mlp", "embed"), bias=True),
        },
    }


def _linear(
    name: str,
    shape: tuple[int, ...],
    axes: sharding.Axes,
    *,
    bias: bool = False,
    inputs: int = 1,
    stack: int = 0,
) -> Tree:
    flat = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    tree = {"w": Param(shape, axes, "normal", f"{name}.weight", flat, inputs, stack)}
    if bias:
        out = shape[inputs:]
        hf_shape = (math.prod(out),)
        tree["b"] = Param(out, tree["w"].output_axes, "zeros", f"{name}.bias", hf_shape, 0, stack)
    return tree


def _plain(
    name: str,
    shape: tuple[int, ...],
    axes: sharding.Axes,
    init: Literal["normal", "ones"],
    stack: int = 0,
) -> Param:
    return Param(shape, axes, init, name, shape, 0, stack)


def unstacked(tree: Tree) -> Tree:
    """The tree of `Param` with a tree for each layer, as `layers.unstack` has the parameters."""

    def split(layers: Tree) -> tuple[Tree, ...]:
        alone = jax.tree.map(lambda p: replace(p, stack=0), layers, is_leaf=is_param)
        return (alone,) * jax.tree.leaves(layers, is_leaf=is_param)[0].stack

    return with_layers(tree, split)


def is_param(x: Any) -> bool:
    return isinstance(x, Param)


def shardings(cfg: ModelConfig, mesh: Mesh) -> Tree:
    return shardings_of(spec_tree(cfg), mesh)


def shardings_of(tree: Tree, mesh: Mesh) -> Tree:
    """The shardings of a tree of `Param`."""
    return jax.tree.map(
        lambda p: sharding.sharding(p.array_axes, p.array_shape, mesh), tree, is_leaf=is_param
    )


def abstract(cfg: ModelConfig, dtype: Any, mesh: Mesh | None = None) -> Tree:
    """The model's tree of `ShapeDtypeStruct`, with shardings if a mesh is given."""
    return abstract_of(spec_tree(cfg), dtype, mesh)


def abstract_of(tree: Tree, dtype: Any, mesh: Mesh | None = None) -> Tree:
    """The tree of `ShapeDtypeStruct` of a tree of `Param`, with shardings if a mesh is given."""

    def placed(p: Param) -> jax.ShapeDtypeStruct:
        place = mesh and sharding.sharding(p.array_axes, p.array_shape, mesh)
        return jax.ShapeDtypeStruct(p.array_shape, p.dtype_in(dtype), sharding=place)

    return jax.tree.map(placed, tree, is_leaf=is_param)


def kept_whole(cfg: ModelConfig, mesh: Mesh) -> list[str]:
    """A line for every dimension of a parameter that the table would split but the mesh cannot."""
    return [
        f"{param.hf}: {line}"
        for param in jax.tree.leaves(spec_tree(cfg), is_leaf=is_param)
        for line in sharding.kept_whole(param.array_axes, param.array_shape, mesh)
    ]


def init(key: jax.Array, cfg: ModelConfig, *, dtype: Any, mesh: Mesh | None = None) -> Tree:
    """Random parameters (normal, deviation 0.02), made on their devices: no host ever has all of
    them in memory."""
    specs, treedef = jax.tree.flatten(spec_tree(cfg), is_leaf=is_param)

    def make(key: jax.Array) -> Tree:
        keys = jax.random.split(key, len(specs))
        return jax.tree.unflatten(treedef, [_initial(k, p, dtype) for k, p in zip(keys, specs)])

    return jax.jit(make, out_shardings=mesh and shardings(cfg, mesh))(key)


def _initial(key: jax.Array, param: Param, dtype: Any) -> jax.Array:
    if param.init == "normal":
        return (0.02 * jax.random.normal(key, param.array_shape, jnp.float32)).astype(dtype)
    return jnp.full(param.array_shape, {"zeros": 0, "ones": 1}[param.init], dtype)
