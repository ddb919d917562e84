"""Weights of the text's projections as 8-bit integers, with a scale for each output.

    w = values * scale        scale = largest |w| of the output / 127, values = w / scale, rounded

`layers.linear` multiplies by the integers, which every float dtype holds exactly, and then the
product by the scale. So no program ever has the weights whole again; XLA may convert those of the
layer that it is at. They take half the memory of bfloat16, and are frozen: integers have no
gradient.

Only the text's projections are held so. They are three quarters of the parameters and more. The
tower, a tenth of a 7B, is left as it is, and so are the vocabulary, whose rows are read one by one,
norms and biases. docs/training.md has what each costs, and why this is not fp8.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from lfpc_jax.arrays import Array, Tree
from lfpc_jax.distributed import sharding
from lfpc_jax.model.spec import Param, is_param

MOST = 127
_SQUARES = 2


@dataclass
class Rounding:
    """What rounding took of the weights that it was told of, by the root of the sum of squares."""

    _squares: dict[str, Array] = field(default_factory=dict)

    def add(self, names: tuple[str, ...], squares: Array) -> None:
        """`squares` [N, 2] are the sums of squares, of the differences and of the weights, of each
        tensor."""
        self._squares |= dict(zip(names, squares.reshape(-1, _SQUARES), strict=True))

    @property
    def share(self) -> float:
        """Of all weights."""
        lost, all_ = (sum(float(x[i]) for x in self._squares.values()) for i in range(_SQUARES))
        return math.sqrt(lost / all_) if all_ else 0.0

    @property
    def worst(self) -> tuple[str, float]:
        """The tensor that lost the most, and its share."""
        shares = {name: math.sqrt(float(x[0] / x[1])) for name, x in self._squares.items() if x[1]}
        name = max(shares, key=lambda name: shares[name])
        return name, shares[name]

    def __str__(self) -> str:
        name, share = self.worst
        return (
            f"int8 changes the text's weights by {self.share:.2%} of their size, at most by "
            f"{share:.2%} ({name})"
        )


def specs(tree: Tree) -> Tree:
    """The tree of `Param` of a model whose text's projections are held as integers."""
    return {**tree, "text": {name: _spec(part) for name, part in tree["text"].items()}}


def _spec(part: Tree) -> Tree:
    if is_param(part):
        return part
    w: Param = part["w"]
    scale = replace(
        w, shape=w.shape[w.inputs :], axes=w.output_axes, init="ones", inputs=0, held="scale"
    )
    return {**part, "w": replace(w, held="int8"), "scale": scale}


def is_held(params: Tree) -> bool:
    """Whether the parameters are held so already."""
    return any("scale" in part for part in params["text"].values() if isinstance(part, dict))


def rounded(w: Array, param: Param, dtype: Any) -> tuple[Array, Array, Array]:
    """One layer's weight as integers and their scale, in `dtype`, and the sums of squares that
    `Rounding` takes. The integers are those for the scale as it is in `dtype`. A scale is NaN if
    any of its weights is not finite, which `max` alone does not say on a CPU."""
    inputs = tuple(range(param.inputs))
    exact = w.astype(jnp.float32)
    unsound = (exact * 0).sum(axis=inputs)
    scale = (jnp.abs(exact).max(axis=inputs) / MOST + unsound).astype(dtype)
    step = jnp.where(scale == 0, 1, scale).astype(jnp.float32)
    values = jnp.round(exact / step)
    lost = jnp.square(values * step - exact).sum()
    return values.astype(jnp.int8), scale, jnp.stack([lost, jnp.square(exact).sum()])


def rounded_tree(params: Tree, tree: Tree, dtype: Any, rounding: Rounding) -> Tree:
    """Parameters that are whole, with the text's projections rounded one by one, so that memory
    falls as it goes. `tree` is their tree of `Param`. Takes their memory."""
    text = dict(params["text"])
    for name, part in _linears(tree["text"]):
        w = text[name]["w"]
        program = _rounder(part["w"], dtype, _places(w, _spec(part)["scale"]))
        values, scale, squares = program(w)
        w.delete()
        rounding.add(part["w"].hf_names, squares)
        text[name] = {**text[name], "w": values, "scale": scale}
    return {**params, "text": text}


def _places(w: Array, scale: Param) -> tuple[Sharding, ...] | None:
    """Where integers, scales and sums lie: as the weights do, as the table says, and everywhere."""
    mesh = w.sharding.mesh if isinstance(w.sharding, NamedSharding) else None
    if not isinstance(mesh, Mesh):
        return None
    of_scale = sharding.sharding(scale.array_axes, scale.array_shape, mesh)
    return w.sharding, of_scale, NamedSharding(mesh, PartitionSpec())


@cache
def _rounder(param: Param, dtype: Any, places: tuple[Sharding, ...] | None) -> Any:
    """The program that rounds a stack of layers."""
    return jax.jit(
        lambda w: jax.lax.map(lambda layer: rounded(layer, param, dtype), w), out_shardings=places
    )


def _linears(text: Tree) -> Iterator[tuple[str, Tree]]:
    return ((name, part) for name, part in text.items() if not is_param(part))


def apart(params: Tree, held: Tree, tree: Tree, rounding: Rounding) -> dict[str, float]:
    """How far weights lie from the integers that were made of them, at most, in steps of int8, by
    the name of the tensor. What rounding took of them is noted in `rounding`. `tree` is the tree of
    `Param` of `params`."""
    steps: dict[str, float] = {}
    for name, part in _linears(tree["text"]):
        both = params["text"][name]["w"], held["text"][name]["w"], held["text"][name]["scale"]
        most, squares = _layers_apart(*both)
        names = part["w"].hf_names
        rounding.add(names, squares)
        steps |= zip(names, most.tolist(), strict=True)
    return steps


@jax.jit
def _layers_apart(w: Array, values: Array, scale: Array) -> tuple[Array, Array]:
    def of_layer(layer: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        w, values, scale = layer
        exact, step = w.astype(jnp.float32), scale.astype(jnp.float32)
        lost = values * step - exact
        most = (jnp.abs(lost) / jnp.where(step == 0, 1, step)).max()
        return most, jnp.stack([jnp.square(lost).sum(), jnp.square(exact).sum()])

    return jax.lax.map(of_layer, (w, values, scale))


def whole(values: Array, scale: Array) -> Array:
    """The weights that integers stand for, in float32. The scale's axes are the last ones of the
    weights'."""
    lead = values.ndim - scale.ndim
    stack = scale.shape[:1]
    spread = scale.astype(jnp.float32).reshape(*stack, *(1,) * lead, *scale.shape[1:])
    return values.astype(jnp.float32) * spread
