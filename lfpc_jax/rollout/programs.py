"""The engine's programs on the device, each a pure function, and the guard over their traces.

    embeddings = encode(params, images)                a bucket of images
    prefix = prefill(params, tokens, embeddings)       prompts, once a group
    state  = place(state, prefix, beginnings)          a prefix into some rows: a rollout begins
    state, drawn = decode(params, state, ...)          up to `steps` tokens a row
    state  = extend(params, state, tokens, embeddings, turns)   an observation onto some rows

The newest token of a row is *pending*: known, but not yet in the cache. A decode step writes the
pending token and draws the next; an observation is written from the pending token on, and its own
last token becomes the pending one. So only decode needs logits. A row decodes while its turn has
not stopped and its budget is not spent, whatever the other rows do.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lfpc_jax.arrays import Array, Tree
from lfpc_jax.distributed.sharding import constrain, sharding
from lfpc_jax.model import cache as kv
from lfpc_jax.model import qwen
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.rollout.sampling import Sampling, sample
from lfpc_jax.rollout.stops import DONE, START
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Tokens

log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """B rows. `position` is that of the pending token; `stop` is a state of the stop table."""

    cache: kv.Cache
    pending: Array  # int32 [B]
    position: Array  # int32 [B]
    stop: Array  # uint8 [B]
    budget: Array  # int32 [B], tokens that may still be drawn
    key: Array  # uint32 [B, 2], of the rollout
    count: Array  # int32 [B], tokens drawn so far


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Turns:
    """Turns that begin: R rows of the state and their pending tokens. A row past the state's last
    is padding."""

    rows: Array  # int32 [R]
    pending: Array  # int32 [R]
    position: Array  # int32 [R]
    budget: Array  # int32 [R]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Beginnings:
    """Rollouts that begin: rows `turns.rows` of the state from rows `sources` of the prefix. Only
    the first `number` count."""

    turns: Turns
    sources: Array  # int32 [R]
    number: Array  # int32
    key: Array  # uint32 [R, 2]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Drawn:
    """What a decode drew in `steps` steps: of each column the first `numbers[b]` count."""

    ids: Array  # int32 [steps, B]
    logprobs: Array  # float32 [steps, B], of the distribution drawn from
    policy: Array  # float32 [steps, B], of the policy
    numbers: Array  # int32 [B]
    stopped: Array  # bool [B], by a stop string or token
    live: Array  # bool [B], continues to decode
    steps: Array  # int32, that ran


def empty_state(cfg: ModelConfig, shapes: RolloutShapes, *, unstacked: bool) -> State:
    B = shapes.slots
    return State(
        cache=kv.empty(cfg, B, shapes.capacity, unstacked=unstacked),
        pending=jnp.zeros(B, jnp.int32),
        position=jnp.zeros(B, jnp.int32),
        stop=jnp.full(B, DONE, jnp.uint8),
        budget=jnp.zeros(B, jnp.int32),
        key=jnp.zeros((B, 2), jnp.uint32),
        count=jnp.zeros(B, jnp.int32),
    )


def prefill(params: Tree, tokens: Tokens, embeddings: Array, *, cfg: ModelConfig) -> kv.Cache:
    """The cache of every prompt's tokens except its last, which becomes the pending token."""
    _, prefix = qwen.prefill(params, tokens, embeddings, cfg=cfg, capacity=tokens.ids.shape[1])
    return prefix


def place(state: State, prefix: kv.Cache, beginnings: Beginnings) -> State:
    """Copies rows of the prefix over rows of the cache. What those rows held before is never read
    again."""
    turns = beginnings.turns

    def copy(cache: Array, part: Array, place: Any) -> Array:
        axis = cache.ndim - 4
        row = jax.lax.dynamic_slice_in_dim(part, beginnings.sources[place], 1, axis)
        start = [0] * cache.ndim
        start[axis] = turns.rows[place]
        return jax.lax.dynamic_update_slice(cache, row.astype(cache.dtype), start)

    def body(place: Any, layers: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        k, v = layers
        into = partial(copy, place=place)
        return jax.tree.map(into, k, prefix.k), jax.tree.map(into, v, prefix.v)

    k, v = jax.lax.fori_loop(0, beginnings.number, body, (state.cache.k, state.cache.v))
    length = _put(state.cache.length, turns.rows, prefix.length[beginnings.sources])
    state = replace(
        state,
        cache=replace(state.cache, k=k, v=v, length=length),
        key=_put(state.key, turns.rows, beginnings.key),
        count=_put(state.count, turns.rows, jnp.zeros_like(turns.rows)),
    )
    return _begin(state, turns)


def extend(
    params: Tree, state: State, tokens: Tokens, embeddings: Array | None, turns: Turns, *, cfg: Any
) -> State:
    """Writes tokens, the pending one first, onto the rows of `turns`, and begins those turns."""
    _, cache = qwen.extend(params, tokens, embeddings, state.cache, cfg=cfg, rows=turns.rows)
    return _begin(replace(state, cache=cache), turns)


def decode(
    params: Tree,
    state: State,
    stops: Array,
    allowed: Array,
    span: int,
    sampling: Sampling,
    *,
    cfg: ModelConfig,
    steps: int,
) -> tuple[State, Drawn]:
    """Draws at most `steps` tokens a row, until every turn has stopped or spent its budget.

    Only the first `span` positions of the cache are read, so no live row may grow longer.
    """
    B = len(state.pending)
    before = state.count
    drawn = (
        jnp.zeros((steps, B), jnp.int32),
        jnp.zeros((steps, B), jnp.float32),
        jnp.zeros((steps, B), jnp.float32),
    )

    def running(carry: tuple[Array, State, Any]) -> Array:
        return (carry[0] < steps) & _live(carry[1]).any()

    def body(carry: tuple[Array, State, Any]) -> tuple[Array, State, Any]:
        step, state, drawn = carry
        state, token = _step(params, state, stops, allowed, cfg=cfg, sampling=sampling, span=span)
        return step + 1, state, tuple(all_.at[step].set(x) for all_, x in zip(drawn, token))

    step, state, drawn = jax.lax.while_loop(running, body, (jnp.int32(0), state, drawn))
    return state, Drawn(
        *drawn,
        numbers=state.count - before,
        stopped=state.stop == DONE,
        live=_live(state),
        steps=step,
    )


def _step(
    params: Tree,
    state: State,
    stops: Array,
    allowed: Array,
    *,
    cfg: ModelConfig,
    sampling: Sampling,
    span: int,
) -> tuple[State, tuple[Array, Array, Array]]:
    """Draws one token for every live row; other rows stay as they are."""
    live = _live(state)
    column = state.pending[:, None]
    tokens = Tokens(
        ids=column,
        positions=jnp.broadcast_to(state.position[:, None], (3, *column.shape)),
        segments=live[:, None].astype(jnp.int32),
        places=jnp.full_like(column, -1),
    )
    hidden, cache = qwen.extend(params, tokens, None, state.cache, cfg=cfg, span=span)
    # The logits are first constrained to be split. If whole rows were demanded at once, XLA's
    # partitioner would gather the vocabulary's weights at every token.
    logits = constrain(qwen.unembed(params, hidden[:, 0], cfg=cfg), "batch", "vocab")
    logits = constrain(logits, "batch", None)
    uniform = jax.vmap(_uniform)(state.key, state.count)
    token, logprob, policy = sample(logits, uniform, allowed=allowed, sampling=sampling)
    counted = live.astype(jnp.int32)
    state = replace(
        state,
        cache=cache,
        pending=jnp.where(live, token, state.pending),
        position=state.position + counted,
        stop=jnp.where(live, stops[state.stop.astype(jnp.int32), token], state.stop),
        budget=state.budget - counted,
        count=state.count + counted,
    )
    return state, (token, logprob, policy)


def _uniform(key: Array, count: Array) -> Array:
    return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), count))


def _live(state: State) -> Array:
    return (state.stop != DONE) & (state.budget > 0)


def _begin(state: State, turns: Turns) -> State:
    return replace(
        state,
        pending=_put(state.pending, turns.rows, turns.pending),
        position=_put(state.position, turns.rows, turns.position),
        budget=_put(state.budget, turns.rows, turns.budget),
        stop=_put(state.stop, turns.rows, jnp.full(len(turns.rows), START, jnp.uint8)),
    )


def _put(x: Array, rows: Array, values: Array) -> Array:
    return x.at[rows].set(values, mode="drop")


def state_shardings(
    cfg: ModelConfig, shapes: RolloutShapes, mesh: Mesh, *, unstacked: bool
) -> State:
    """The cache is split by the table of rules; everything else is on every device."""
    state = jax.eval_shape(partial(empty_state, cfg, shapes, unstacked=unstacked))

    def of(x: jax.ShapeDtypeStruct) -> NamedSharding:
        if x.ndim < 4:
            return NamedSharding(mesh, PartitionSpec())
        lead = (None,) * (x.ndim - 4)
        return sharding((*lead, "batch", "kv_heads", None, None), x.shape, mesh)

    return jax.tree.map(of, state)


class Programs:
    """The programs of one engine, compiled once for each shape, under `mesh` if there is one.

    `traces` counts them by name and shapes. After `seal` any further trace is logged with the
    shapes that caused it, and kept in `late`.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        shapes: RolloutShapes,
        *,
        unstacked: bool,
        mesh: Mesh | None = None,
    ) -> None:
        self.traces: Counter[str] = Counter()
        self.late: list[str] = []
        self._sealed = False
        self._mesh = mesh
        state = drawn = None
        if mesh is not None:
            state = state_shardings(cfg, shapes, mesh, unstacked=unstacked)
            drawn = NamedSharding(mesh, PartitionSpec())
        empty = partial(empty_state, cfg, shapes, unstacked=unstacked)
        one_turn = partial(decode, cfg=cfg, steps=shapes.chunk)
        self.empty = self._program("empty", empty, out=state)
        self.encode = self._program("encode", partial(qwen.encode_images, cfg=cfg))
        self.prefill = self._program("prefill", partial(prefill, cfg=cfg))
        self.place = self._program("place", place, donated=(0,), out=state)
        self.extend = self._program("extend", partial(extend, cfg=cfg), donated=(1,), out=state)
        self.decode = self._program(
            "decode", one_turn, donated=(1,), static=(4, 5), out=(state, drawn)
        )

    def seal(self) -> None:
        """Declares that everything has been compiled."""
        self._sealed = True

    def _program(
        self,
        name: str,
        function: Callable,
        *,
        donated: tuple[int, ...] = (),
        static: tuple[int, ...] = (),
        out: Any = None,
    ) -> "Program":
        def traced(*args: Any) -> Any:
            self._count(name, args)
            return function(*args)

        traced.__name__ = name  # by which JAX reports its compilation
        jitted = jax.jit(traced, donate_argnums=donated, static_argnums=static, out_shardings=out)
        return Program(jitted, self._mesh)

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        """Counts a trace by name and shapes. Those of parameters and state are left out, since they
        are many and never change."""
        arrays = [x for x in args if not isinstance(x, State | dict)]
        shapes = (getattr(x, "shape", x) for x in jax.tree.leaves(arrays))
        what = " ".join((name, *map(str, shapes)))
        self.traces[what] += 1
        if self._sealed:
            self.late.append(what)
            log.warning("compiled after warm-up, which costs seconds to minutes: %s", what)


@dataclass(frozen=True)
class Program:
    """A jitted function that is traced and run under its mesh."""

    jitted: Any
    mesh: Mesh | None

    def __call__(self, *args: Any) -> Any:
        with self._scope():
            return self.jitted(*args)

    def lower(self, *args: Any) -> Any:
        with self._scope():
            return self.jitted.lower(*args)

    def _scope(self) -> Any:
        return nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
