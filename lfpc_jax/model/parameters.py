"""Which parameters an update changes: all of them, all but the vision tower, or LoRA's.

Trained and frozen parameters are disjoint trees of the same nested dicts, so `join` merges them.
Trained parameters are float32; frozen ones have the dtype that the model computes in, or beside
LoRA's factors may be integers (`int8.py`).

LoRA: a chosen projection `w` of the text's layers, and of the vision tower's if it is chosen,
computes `x w + (x a) b`, with `b` 0 at first. The usual factor alpha / rank is part of the initial
scale of `a`, and appears nowhere else. In layers that are not chosen `a` is 0, too, so that the
gradients of both factors stay 0. With dropout, updates compute `x w + (d(x) a) b`, where `d` sets
each value to 0 at that rate and divides the others by one less the rate.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed import sharding
from lfpc_jax.model import int8, spec
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.spec import Param

PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
Base = Literal["same", "int8"]
_TOWER = ("qkv", "proj", "gate", "up", "down")


@dataclass(frozen=True)
class LoRA:
    """`projections` and `layers` are the text's; if `layers`, numbers counted from 0, is empty, all
    are chosen. With `vision` all projections of the vision tower's layers have factors, too.
    `dropout` is the rate at which updates drop values before the factors; nothing else does. `base`
    says how the text's projections are held, which are frozen: in the dtype that is computed with,
    or as int8, which is rounded when a model is loaded."""

    rank: int = 16
    alpha: float = 32.0
    projections: tuple[str, ...] = PROJECTIONS
    layers: tuple[int, ...] = ()
    vision: bool = False
    dropout: float = 0.0
    base: Base = "same"

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"model.lora.dropout is {self.dropout}; it is a rate, from 0 to below 1"
            )
        unknown = set(self.projections) - set(PROJECTIONS)
        if unknown or not self.projections or self.rank < 1 or self.alpha <= 0:
            raise ValueError(
                f"{self}: needs a positive rank and alpha, and projections of {PROJECTIONS}"
            )


@dataclass(frozen=True)
class Trainable:
    """What is trained: everything, but the vision tower only if `vision`; or only LoRA's factors,
    if `lora`."""

    vision: bool = True
    lora: LoRA | None = None

    @property
    def rounds_base(self) -> bool:
        """Whether what is frozen is held as int8."""
        return self.lora is not None and self.lora.base == "int8"


def specs(cfg: ModelConfig, trainable: Trainable) -> tuple[Tree, Tree]:
    """The trees of `Param` of the trained and the frozen parameters."""
    whole = spec.spec_tree(cfg)
    if trainable.lora is None:
        return (whole, {}) if trainable.vision else _without(whole, "vision")
    absent = sorted(set(trainable.lora.layers) - set(range(cfg.text.layers)))
    if absent:
        raise ValueError(
            f"model.lora.layers {absent}: the text has layers 0 to {cfg.text.layers - 1}"
        )

    def of_layers(layers: Tree, names: tuple[str, ...]) -> Tree:
        return {name: {"lora": _factors(layers[name]["w"], lora)} for name in names}

    lora = trainable.lora
    trained = {"text": of_layers(whole["text"], lora.projections)}
    if lora.vision:
        trained["vision"] = {"layers": of_layers(whole["vision"]["layers"], _TOWER)}
    return trained, int8.specs(whole) if trainable.rounds_base else whole


def _without(tree: Tree, name: str) -> tuple[Tree, Tree]:
    return {key: part for key, part in tree.items() if key != name}, {name: tree[name]}


def _factors(weight: Param, lora: LoRA) -> Tree:
    inputs, outputs = weight.shape[: weight.inputs], weight.shape[weight.inputs :]
    before, after = weight.axes[: weight.inputs], weight.axes[weight.inputs :]

    def factor(shape: tuple[int, ...], axes: sharding.Axes) -> Param:
        return Param(shape, axes, "zeros", "", (), stack=weight.stack)

    return {"a": factor((*inputs, lora.rank), (*before, None)),
            "b": factor((lora.rank, *outputs), (None, *after))}  # fmt: skip


def split(
    key: jax.Array, params: Tree, cfg: ModelConfig, trainable: Trainable
) -> tuple[Tree, Tree]:
    """The trained parameters, in float32, and the frozen ones; to be jitted. LoRA's factors are
    drawn at random. A base of integers was rounded before, when it was loaded."""
    assert trainable.rounds_base == int8.is_held(params), trainable
    if trainable.lora is None:
        chosen, frozen = (params, {}) if trainable.vision else _without(params, "vision")
    else:
        trained, _ = specs(cfg, trainable)
        chosen, frozen = _new_factors(key, trained, trainable.lora), params
    return cast(chosen, jnp.float32), cast(frozen, cfg.dtype)


def _new_factors(key: jax.Array, trained: Tree, lora: LoRA) -> Tree:
    def make(number: int, factors: Tree, layers: tuple[int, ...]) -> Tree:
        a, b = factors["lora"]["a"], factors["lora"]["b"]
        scale = lora.alpha / lora.rank / math.sqrt(math.prod(a.shape[:-1]))
        drawn = jax.random.normal(jax.random.fold_in(key, number), a.array_shape, jnp.float32)
        if layers:
            others = np.setdiff1d(np.arange(len(drawn)), layers)
            drawn = drawn.at[others].set(0.0)
        return {"lora": {"a": scale * drawn, "b": jnp.zeros(b.array_shape, jnp.float32)}}

    text, numbers = trained["text"], itertools.count()
    made = {"text": {name: make(next(numbers), part, lora.layers) for name, part in text.items()}}
    if lora.vision:
        tower = trained["vision"]["layers"]
        layers = {name: make(next(numbers), part, ()) for name, part in tower.items()}
        made["vision"] = {"layers": layers}
    return made


def drops(trained: Tree, key: jax.Array, rate: float) -> Tree:
    """What `layers.linear` needs to drop values before LoRA's factors, to be joined with the
    parameters: a key for every layer of every projection, and the rate."""
    numbers = itertools.count()

    def drop(part: Tree, stacked: bool) -> Tree:
        if isinstance(part, tuple):
            return tuple(drop(layer, False) for layer in part)
        if "lora" not in part:
            return {name: drop(inner, stacked) for name, inner in part.items()}
        new = jax.random.fold_in(key, next(numbers))
        depth = (len(part["lora"]["a"]),) if stacked else ()
        keys = jax.random.split(new, depth) if stacked else new
        dropped = {"key": jax.random.key_data(keys), "rate": jnp.full(depth, rate, jnp.float32)}
        return {"lora": {"drop": dropped}}

    return drop(trained, True)


def join(trained: Tree, frozen: Tree) -> Tree:
    """The model's parameters, including LoRA's factors. Both parts are stacked, or neither is."""
    if isinstance(trained, tuple):
        return tuple(join(part, other) for part, other in zip(trained, frozen, strict=True))
    if not isinstance(trained, dict):
        return trained
    both = dict(frozen)
    for name, part in trained.items():
        both[name] = join(part, frozen[name]) if name in frozen else part
    return both


def merged(params: Tree, dtype: Any) -> tuple[Tree, jax.Array]:
    """The parameters in `dtype` without LoRA's factors, whose products are added to the weights in
    float32, a layer at a time. And the share of what the factors add (by norm) that is lost when
    the sums are rounded to `dtype`: 1 is all of it, and it is 0 without factors."""
    sums = jnp.zeros(2)

    def without(part: Tree) -> Tree:
        nonlocal sums
        if not isinstance(part, dict):
            return cast(part, dtype)
        if "lora" not in part:
            return {name: without(inner) for name, inner in part.items()}
        factors = part["lora"]["a"], part["lora"]["b"]
        w, of_layers = jax.lax.map(partial(_merged, dtype=dtype), (part["w"], *factors))
        sums += of_layers.sum(axis=0)
        return {name: without(x) for name, x in part.items() if name != "lora"} | {"w": w}

    whole = without(params)
    lost, added = sums
    return whole, jnp.sqrt(lost / jnp.where(added > 0, added, 1))


def _merged(
    layer: tuple[jax.Array, jax.Array, jax.Array], *, dtype: Any
) -> tuple[jax.Array, jax.Array]:
    """A layer's sum in `dtype`, and two sums of squares: of what rounding takes, and of what the
    factors add."""
    w, a, b = layer
    before = w.astype(jnp.float32)
    exact = before + jnp.tensordot(a, b, axes=1)
    rounded = exact.astype(dtype)
    lost = jnp.square(rounded.astype(jnp.float32) - exact).sum()
    return rounded, jnp.stack([lost, jnp.square(exact - before).sum()])


def whole(cfg: ModelConfig, trainable: Trainable, mesh: Mesh | None = None) -> Tree:
    """The tree of `ShapeDtypeStruct` that updates and rollouts compute with: all parameters in the
    model's dtype, including LoRA's factors."""
    trained, frozen = (spec.abstract_of(tree, cfg.dtype, mesh) for tree in specs(cfg, trainable))
    return join(trained, frozen)


def cast(tree: Tree, dtype: Any) -> Tree:
    """The tree with all arrays in `dtype`, but for integers."""

    def narrow(x: jax.Array) -> jax.Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(narrow, tree)
