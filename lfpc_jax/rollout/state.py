"""What the engine's programs have on the device, and what they are given and give."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.arrays import Array
from lfpc_jax.distributed.sharding import sharding
from lfpc_jax.model import cache as kv
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.rollout.sampling_rows import RowSampling
from lfpc_jax.rollout.stops import DONE
from lfpc_jax.shapes import RolloutShapes


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What B rows are about to do. `position` is that of the pending token; `stop` is a state of
    the stop table."""

    pending: Array  # int32 [B]
    position: Array  # int32 [B]
    stop: Array  # uint8 [B]
    budget: Array  # int32 [B], tokens that may still be drawn
    key: Array  # uint32 [B, 2], of the rollout
    count: Array  # int32 [B], tokens drawn so far


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """B rows of a cache after their prompts, and P prompts."""

    cache: kv.Cache
    prompts: kv.Cache
    continued: Array  # int32 [B], each row's prompt, by its number in their shard
    rows: Rows
    kept: Any = None  # a cache of beginnings of prompts, if they are kept


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turns:
    """Turns that begin: R rows of the state and their pending tokens. `rows` are numbered within
    their shard, in order of the shards; one past its last is padding."""

    rows: Array  # int32 [R]
    pending: Array  # int32 [R]
    position: Array  # int32 [R]
    budget: Array  # int32 [R]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beginnings:
    """Rollouts that begin: rows `turns.rows` from the prompts `continued` of the same shard."""

    turns: Turns
    continued: Array  # int32 [R]
    key: Array  # uint32 [R, 2]
    count: Array  # int32 [R], tokens that the rollout has drawn before


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rewinds:
    """Rows, numbered like `Turns.rows`, that go back to where they held `length` ids of their own
    and had drawn `count` tokens."""

    rows: Array  # int32 [R]
    length: Array  # int32 [R]
    count: Array  # int32 [R]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Live:
    """The rows that a decode computes, numbered like `Turns.rows`, and those of them that continue
    each prompt; how each is sampled, if they differ."""

    rows: Array  # int32 [R]
    members: Members
    sampling: RowSampling | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """What a decode drew in `steps` steps for R live rows: of each column the first `numbers[r]`
    count."""

    ids: Array  # int32 [steps, R]
    logprobs: Array  # float32 [steps, R], of the distribution drawn from
    policy: Array  # float32 [steps, R], of the policy
    numbers: Array  # int32 [R]
    stopped: Array  # bool [R], by a stop string or token
    live: Array  # bool [R], continues to decode
    steps: Array  # int32, that ran


def empty_state(
    cfg: ModelConfig, shapes: RolloutShapes, *, unstacked: bool, copies: bool = False
) -> State:
    B, own = shapes.slots, shapes.capacity if copies else shapes.own_capacity
    return State(
        cache=kv.empty(cfg, B, own, unstacked=unstacked),
        prompts=kv.empty(cfg, shapes.prefix_count, shapes.prefix_capacity, unstacked=unstacked),
        continued=jnp.zeros(B, jnp.int32),
        rows=Rows(
            pending=jnp.zeros(B, jnp.int32),
            position=jnp.zeros(B, jnp.int32),
            stop=jnp.full(B, DONE, jnp.uint8),
            budget=jnp.zeros(B, jnp.int32),
            key=jnp.zeros((B, 2), jnp.uint32),
            count=jnp.zeros(B, jnp.int32),
        ),
        kept=kv.empty(cfg, shapes.kept, shapes.prefix_capacity, unstacked=unstacked)
        if shapes.kept
        else None,
    )


def state_shardings(
    cfg: ModelConfig, shapes: RolloutShapes, mesh: Mesh, *, unstacked: bool, copies: bool = False
) -> State:
    """The cache is split by the table of rules; everything else is on every device."""
    empty = partial(empty_state, cfg, shapes, unstacked=unstacked, copies=copies)
    with jax.set_mesh(mesh):
        state = jax.eval_shape(empty)

    def of(x: jax.ShapeDtypeStruct) -> NamedSharding:
        if x.ndim < 4:
            return NamedSharding(mesh, PartitionSpec())
        lead = (None,) * (x.ndim - 4)
        return sharding((*lead, "batch", "kv_heads", None, None), x.shape, mesh)

    return jax.tree.map(of, state)
