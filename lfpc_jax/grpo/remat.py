"""What updates save for the backward pass, chosen by the memory that is left.

Everything here is an estimate by hand, made before anything is compiled. The compiler has the last
word (`lfpc plan`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lfpc_jax.arrays import Tree
from lfpc_jax.model import parameters, qwen, spec, text
from lfpc_jax.model.attention_cudnn import gathered_bytes
from lfpc_jax.model.config import ModelConfig, Remat
from lfpc_jax.model.parameters import Trainable
from lfpc_jax.model.spec import is_param, spec_tree
from lfpc_jax.shapes import TrainShapes
from lfpc_jax.trajectory import PackedImages

Choice = Literal["auto", Remat]

FROM_MOST: tuple[Remat, ...] = ("none", "dots", "attended", "full")
"""From what saves the most, and computes the least again."""

_OF_A_GPU_S_TOWER = FROM_MOST[1:]
"""The tower's products are small, so with "none" a GPU takes longer to write and read what is saved
than to compute it again (docs/scaling_gpus.md)."""

_BLOCK = 512
"""Tokens of a row whose logits exist at once; see `model/logprobs.py`."""

_PADDED = 1.08
"""What the compiler reserves for the tower's saved arrays over their own size."""

_ROOM = 0.95
"""The share of a chip's memory that an estimate may fill."""


@dataclass(frozen=True)
class Room:
    """What a chip has room for. `memory` is the chip's in bytes, None if it is not known. `beside`
    is what it holds for others during updates, such as a reference. The mesh splits rows over
    `data` x `fsdp` and parameters over `fsdp` x `tensor`. `pictures` is how many micro-batches of
    them a shard has in a mini-batch. The optimizer's moments may be in the host's memory. Attention
    in packed rows may copy their sequences (`attention_cudnn`)."""

    memory: int | None
    beside: int
    sides: Mapping[str, int]
    pictures: int
    platform: str
    moments_on_host: bool = False
    gathers: bool = False


@dataclass(frozen=True)
class Resolved:
    """The policies of the text and of the tower, and why."""

    remat: Remat
    tower_remat: Remat
    reason: str

    def __str__(self) -> str:
        return f"{self.remat}, of the vision tower {self.tower_remat} ({self.reason})"

    def of(self, cfg: ModelConfig) -> ModelConfig:
        return replace(cfg, remat=self.remat, tower_remat=self.tower_remat)


def resolve(
    cfg: ModelConfig,
    shapes: TrainShapes,
    trainable: Trainable,
    room: Room,
    remat: Choice,
    tower_remat: Choice,
) -> Resolved:
    """What "auto" means for the text and for the tower: of the policies that fit, the one that
    saves the most. A GPU's tower saves products at most. If none fits, layers' inputs go to the
    host's memory where there is one."""
    if "auto" not in (remat, tower_remat):
        return Resolved(remat, tower_remat, "as configured")  # type: ignore[arg-type]
    usual: Remat | None = "none" if room.platform == "cpu" else None
    reason = "fastest on a CPU" if usual else "the memory of this chip is not known"
    if usual is None and room.memory is None:
        usual = "full"
    if usual:
        of_text, of_tower = (usual if given == "auto" else given for given in (remat, tower_remat))
        return Resolved(of_text, of_tower, reason)
    assert room.memory is not None
    free = _ROOM * room.memory - room.beside - held_bytes(cfg, shapes, trainable, room)
    reasons: list[str] = []
    chosen: list[Remat] = []
    tower_s = _OF_A_GPU_S_TOWER if room.platform == "gpu" else FROM_MOST
    for given, need, from_most in (
        (remat, rows_bytes, FROM_MOST),
        (tower_remat, pictures_bytes, tower_s),
    ):
        policies = from_most if given == "auto" else (given,)
        needs = {policy: need(cfg, shapes, trainable, policy, room) for policy in policies}
        fits = [policy for policy in policies if needs[policy] <= free]
        policy = fits[0] if fits else ("offload" if given == "auto" else given)
        chosen.append(policy)
        part = "text" if need is rows_bytes else "tower"
        needed = needs.get(policy, needs[policies[-1]])
        reasons.append(
            f"{part}: {policy} needs about {needed / 2**30:.1f} of {free / 2**30:.1f} GiB left"
        )
    of_text, of_tower = chosen
    return Resolved(of_text, of_tower, "; ".join(reasons))


# ---------------------------------------------------------------- what a chip holds


def held_bytes(cfg: ModelConfig, shapes: TrainShapes, trainable: Trainable, room: Room) -> float:
    """Parameters, moments, gradients' sums, the copy in the compute dtype, and the embeddings of a
    mini-batch with their gradients."""
    narrow = jnp.dtype(cfg.dtype).itemsize
    trained, frozen, trains_tower = _held(cfg, trainable)
    copy = narrow if cfg.dtype != "float32" else 0
    ways = room.sides["fsdp"] * room.sides["tensor"]
    embeddings = room.pictures * shapes.windows * cfg.vision.window_tokens * cfg.text.width
    slopes = 4 if trains_tower else 0
    state = 4 if room.moments_on_host else 12
    return (trained * (state + 4 + copy) + frozen) / ways + embeddings * (narrow + slopes)


def update_bytes(cfg: ModelConfig, shapes: TrainShapes, trainable: Trainable, room: Room) -> float:
    """The bytes that a chip holds in an update at most, with the policies of `cfg`."""
    tower_remat = cfg.tower_remat or cfg.remat
    needs = [rows_bytes(cfg, shapes, trainable, cfg.remat, room)]
    if _held(cfg, trainable)[2]:
        needs.append(pictures_bytes(cfg, shapes, trainable, tower_remat, room))
    return room.beside + held_bytes(cfg, shapes, trainable, room) + max(needs)


def rows_bytes(
    cfg: ModelConfig, shapes: TrainShapes, trainable: Trainable, remat: Remat, room: Room
) -> float:
    """The temporaries of `learn` on a chip: what is saved, what a layer works with, a gradient of
    what is trained of the text in the compute dtype, logits, and the vocabulary's weights if they
    are gathered, and their gradient if they are trained."""
    c, tensor = cfg.text, room.sides["tensor"]
    narrow = jnp.dtype(cfg.dtype).itemsize
    tokens = shapes.rows * shapes.row_tokens
    head = narrow * c.vocab * c.width / tensor
    logits = 4 * shapes.rows * min(_BLOCK, shapes.places) * c.vocab / tensor
    matrices = _parameters(cfg, "text") / c.layers
    trained = parameters.specs(cfg, trainable)[0]
    heads = (room.sides["fsdp"] > 1) + 0.5 * ("embed" in trained)
    gradient = narrow * _count(trained["text"]) / (room.sides["fsdp"] * tensor)
    working = 2 * narrow * matrices / tensor + narrow * 4 * tokens * c.mlp / tensor
    if room.gathers:
        working += gathered_bytes(c, shapes.rows, shapes.row_tokens, narrow, causal=True) / tensor
    kept = c.layers * tokens * _saved(cfg, "text", remat, tensor, shapes.shared)
    return kept + working + gradient + heads * head + 2 * logits


def pictures_bytes(
    cfg: ModelConfig, shapes: TrainShapes, trainable: Trainable, remat: Remat, room: Room
) -> float:
    """The temporaries of `backward` on a chip."""
    c, tensor = cfg.vision, room.sides["tensor"]
    narrow = jnp.dtype(cfg.dtype).itemsize
    patches = shapes.windows * c.window_patches
    weights = narrow * _parameters(cfg, "vision") / tensor
    trained = narrow * _count(parameters.specs(cfg, trainable)[0].get("vision", {})) / tensor
    working = 2 * weights / c.depth + trained / room.sides["fsdp"]
    working += narrow * patches * (20 * c.mlp / tensor + 44 * c.width)
    if room.gathers:
        spans, length = shapes.windows // shapes.span, shapes.span * c.window_patches
        working += gathered_bytes(c, spans, length, narrow, causal=False) / tensor
    kept = c.depth * patches * _saved(cfg, "vision", remat, tensor, False)
    return _PADDED * kept + working


def _saved(cfg: ModelConfig, part: str, remat: Remat, tensor: int, shared: bool) -> float:
    """The bytes that a layer saves for each token or patch. All but its input is split over
    `tensor`."""
    width = cfg.text.width if part == "text" else cfg.vision.width
    entered = width * jnp.dtype(cfg.dtype).itemsize
    if remat == "offload":
        return 0.0
    if remat == "full":
        return float(entered)
    whole = saved_by_layer(replace(cfg, remat=remat, tower_remat=None), part, shared)
    return entered + max(0.0, whole - entered) / tensor


@cache
def saved_by_layer(cfg: ModelConfig, part: str, shared: bool = False) -> float:
    """The bytes that JAX saves in each layer for each token or patch: the residuals of two layers
    less those of one, and without the weights."""
    of_part = _text_residuals if part == "text" else _tower_residuals
    return of_part(cfg, 2, shared) - of_part(cfg, 1, shared)


_TOKENS = 1024


def _text_residuals(cfg: ModelConfig, depth: int, shared: bool) -> float:
    cfg = replace(cfg, text=replace(cfg.text, layers=depth))
    params = spec.abstract(cfg, cfg.dtype)
    params = {name: params[name] for name in ("text", "norm")}
    x = jax.ShapeDtypeStruct((1, _TOKENS, cfg.text.width), cfg.dtype)
    index = jax.ShapeDtypeStruct((1, _TOKENS), jnp.int32)
    positions = jax.ShapeDtypeStruct((3, 1, _TOKENS), jnp.int32)

    def pull(params: Tree, x: Any, positions: Any, segments: Any) -> Any:
        def hidden(params: Tree, x: Any) -> Any:
            prefix = segments if shared else None
            return text.forward(params, x, positions, cfg=cfg, segments=segments, prefix=prefix)

        return jax.vjp(hidden, params, x)[1]

    saved = jax.eval_shape(pull, params, x, positions, index)
    return (_bytes(saved) - _bytes(params["text"])) / _TOKENS


def _tower_residuals(cfg: ModelConfig, depth: int, shared: bool) -> float:
    del shared
    c = replace(cfg.vision, depth=depth, full_layers=(0,))
    cfg = replace(cfg, vision=c)
    params = {"vision": spec.abstract(cfg, cfg.dtype)["vision"]}
    windows = -(-_TOKENS // c.window_patches)
    packed = (1, 1, windows)
    images = PackedImages(
        pixels=jax.ShapeDtypeStruct((*packed, *c.processor.window_shape), jnp.uint8),
        picture=jax.ShapeDtypeStruct(packed, jnp.int32),
        grid=jax.ShapeDtypeStruct((*packed, 2), jnp.int32),
        window=jax.ShapeDtypeStruct(packed, jnp.int32),
    )

    def pull(params: Tree, images: PackedImages) -> Any:
        return jax.vjp(lambda params: qwen.encode_images(params, images, cfg=cfg), params)[1]

    saved = jax.eval_shape(pull, params, images)
    weights = _bytes(params["vision"]["layers"])
    return (_bytes(saved) - weights) / (windows * c.window_patches)


def _bytes(tree: Tree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@cache
def _held(cfg: ModelConfig, trainable: Trainable) -> tuple[int, int, bool]:
    """How many parameters are trained, the bytes of those that are frozen, and whether any of the
    tower is trained."""
    trained, frozen = parameters.specs(cfg, trainable)
    return _count(trained), _bytes(spec.abstract_of(frozen, cfg.dtype)), "vision" in trained


@cache
def _parameters(cfg: ModelConfig, part: str) -> int:
    return _count(spec_tree(cfg)[part])


def _count(tree: Tree) -> int:
    return sum(math.prod(p.array_shape) for p in jax.tree.leaves(tree, is_leaf=is_param))
