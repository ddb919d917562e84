"""The engine's programs on the device, each a pure function, and the guard over their traces.

    embeddings = encode(params, images)                a bucket of images
    state  = prefill(params, state, tokens, embeddings, rows)   prompts, once a group
    state  = begin(state, beginnings)                  rollouts begin, each from a prompt
    state, drawn = decode(params, state, ...)          up to `steps` tokens a row
    state  = extend(params, state, tokens, embeddings, turns)   an observation onto some rows
    state  = rewind(state, rewinds)                    rows forget what came after a turn

If beginnings of prompts are kept, `prefill` computes these, and prompts are made of them:

    state  = place(state, beginnings, rows)            prompts become copies of beginnings
    state  = ask(params, state, tokens, rows)          text behind them

A prompt is in memory once; rows hold what comes after it. The newest token of a row is *pending*:
known, but not yet in the cache. A decode step writes the pending token and draws the next; an
observation is written from the pending token on, and its own last token becomes the pending one. So
only decode needs logits. A row decodes while its turn has not stopped and its budget is not spent,
whatever the other rows do.

With `copies`, every rollout copies its prompt into its own row, and decode reads rows alone. It
computes the same, and exists to measure and to test against.
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
from lfpc_jax.distributed.sharding import constrain
from lfpc_jax.model import attention_decode, attention_prompts, qwen
from lfpc_jax.model import cache as kv
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.rollout.sampling import Sampling, sample
from lfpc_jax.rollout.sampling_rows import RowSampling, sample_rows
from lfpc_jax.rollout.state import (
    Beginnings,
    Drawn,
    Live,
    Rewinds,
    Rows,
    State,
    Turns,
    empty_state,
    state_shardings,
)
from lfpc_jax.rollout.stops import DONE, START
from lfpc_jax.shapes import RolloutShapes
from lfpc_jax.trajectory import Images, Tokens

log = logging.getLogger(__name__)


def _encode(params: Tree, images: Images, *, cfg: ModelConfig) -> Array:
    """The embeddings of every image by themselves, [R, N, D]."""
    flat = qwen.encode_images(params, images, cfg=cfg)
    return constrain(flat.reshape(len(images.grid), -1, flat.shape[-1]), "batch", None, None)


def prefill(
    params: Tree,
    state: State,
    tokens: Tokens,
    embeddings: Array,
    rows: Array,
    *,
    cfg: ModelConfig,
) -> State:
    """Writes every prompt's tokens except its last, which becomes the pending token, to these rows
    of the prompts; rows are numbered like `Turns.rows`. If beginnings are kept, writes these."""
    seen = qwen.placed(embeddings, tokens.image_index)
    length = tokens.ids.shape[1]
    _, new = qwen.prefill(params, tokens, seen, cfg=cfg, capacity=length)
    if state.kept is not None:
        return replace(state, kept=kv.put_rows(state.kept, new, rows))
    return replace(state, prompts=kv.put_rows(state.prompts, new, rows))


def place(state: State, beginnings: Array, rows: Array) -> State:
    """Copies beginnings that are kept to these rows of the prompts, all numbered within their
    shard."""
    assert state.kept is not None
    copies = kv.some_rows(state.kept, beginnings)
    return replace(state, prompts=kv.put_rows(state.prompts, copies, rows))


def ask(params: Tree, state: State, tokens: Tokens, rows: Array, *, cfg: ModelConfig) -> State:
    """Appends text to these rows of the prompts."""
    _, prompts = qwen.extend(params, tokens, None, state.prompts, cfg=cfg, rows=rows)
    return replace(state, prompts=prompts)


def begin(state: State, beginnings: Beginnings, *, copies: bool) -> State:
    """Rollouts begin in rows. What these rows held before is never read again."""
    turns = beginnings.turns
    into = kv.everywhere(turns.rows, len(state.continued))
    cache = replace(state.cache, length=_put(state.cache.length, into, jnp.zeros_like(into)))
    if copies:
        prompts = kv.some_rows(state.prompts, beginnings.continued)
        cache = kv.put_rows(cache, prompts, turns.rows)
    rows = replace(
        state.rows,
        key=_put(state.rows.key, into, beginnings.key),
        count=_put(state.rows.count, into, beginnings.count),
    )
    continued = _put(state.continued, into, beginnings.continued)
    state = replace(state, cache=cache, continued=continued, rows=rows)
    return _turned(state, turns)


def rewind(state: State, rewinds: Rewinds) -> State:
    """Rows become as short as they were earlier. What lies past a row's length is never read, and
    the next tokens overwrite it. The row's next turn begins with `extend`."""
    into = kv.everywhere(rewinds.rows, len(state.continued))
    cache = replace(state.cache, length=_put(state.cache.length, into, rewinds.length))
    rows = replace(state.rows, count=_put(state.rows.count, into, rewinds.count))
    return replace(state, cache=cache, rows=rows)


def extend(
    params: Tree,
    state: State,
    tokens: Tokens,
    embeddings: Array | None,
    turns: Turns,
    *,
    cfg: ModelConfig,
    copies: bool,
) -> State:
    """Writes tokens, the pending one first, onto the rows of `turns`, and begins those turns."""
    seen = None if embeddings is None else qwen.placed(embeddings, tokens.image_index)
    _, cache = qwen.extend(
        params,
        tokens,
        seen,
        state.cache,
        cfg=cfg,
        rows=turns.rows,
        prompts=None if copies else state.prompts,
        continued=None if copies else kv.rows_of(state.continued, turns.rows),
    )
    return _turned(replace(state, cache=cache), turns)


def decode(
    params: Tree,
    state: State,
    stops: Array,
    allowed: Array,
    live: Live,
    span: int,
    sampling: Sampling,
    *,
    cfg: ModelConfig,
    steps: int,
    copies: bool,
    in_place: bool,
) -> tuple[State, Drawn]:
    """Draws at most `steps` tokens for each live row, until every turn has stopped or spent its
    budget. Live rows are copied and run on the copies, and may have no more than `span` ids before;
    or, if `in_place`, `live` names all rows in order, and they may not grow beyond it."""
    B, R = len(state.continued), len(live.rows)
    chosen = kv.everywhere(live.rows, B)
    rows: Rows = jax.tree.map(lambda x: x.at[chosen].get(mode="clip"), state.rows)
    rows = replace(rows, budget=jnp.where(chosen < B, rows.budget, 0))
    working: Any = state.cache
    if not in_place:
        working = kv.working(state.cache, live.rows, span, steps)
    prompts: Any = None if copies else state.prompts
    members = None if copies else live.members
    if not (in_place or copies) and attention_prompts.can_copy(prompts):
        prompts = attention_prompts.copies(prompts, live.members, R)
    # A row that is live has been live in all steps before, so its numbers are known ahead; drawn
    # one step at a time they would take longer than some products.
    uniform = _uniform(rows.key, rows.count, steps)
    drawn = (
        jnp.zeros((steps, R), jnp.int32),
        jnp.zeros((steps, R), jnp.float32),
        jnp.zeros((steps, R), jnp.float32),
    )
    before = rows.count

    def running(carry: tuple[Array, Rows, Any, Any]) -> Array:
        return (carry[0] < steps) & _live(carry[1]).any()

    def body(carry: tuple[Array, Rows, Any, Any]) -> Any:
        step, rows, working, drawn = carry
        logits, working = qwen.decode(
            params,
            rows.pending,
            rows.position,
            working,
            step,
            cfg=cfg,
            live=_live(rows),
            span=span,
            prompts=prompts,
            members=members,
        )
        drawing = live.sampling or sampling
        rows, token = _draw(rows, logits, uniform[step], stops, allowed, drawing)
        return step + 1, rows, working, tuple(all_.at[step].set(x) for all_, x in zip(drawn, token))

    step, rows, working, drawn = jax.lax.while_loop(
        running, body, (jnp.int32(0), rows, working, drawn)
    )
    numbers = rows.count - before
    cache: kv.Cache = working
    if isinstance(working, kv.Working):
        cache = kv.written_back(state.cache, working, live.rows, numbers)
    kept = jax.tree.map(lambda x, y: x.at[chosen].set(y, mode="drop"), state.rows, rows)
    return replace(state, cache=cache, rows=kept), Drawn(
        *drawn,
        numbers=numbers,
        stopped=rows.stop == DONE,
        live=_live(rows),
        steps=step,
    )


def _draw(
    rows: Rows,
    logits: Array,
    uniform: Array,
    stops: Array,
    allowed: Array,
    sampling: Sampling | RowSampling,
) -> tuple[Rows, tuple[Array, Array, Array]]:
    """Draws one token for every live row; other rows stay as they are."""
    live = _live(rows)
    # The logits are first constrained to be split. If whole rows were demanded at once, XLA's
    # partitioner would gather the vocabulary's weights at every token.
    logits = constrain(constrain(logits, "batch", "vocab"), "batch", None)
    if isinstance(sampling, RowSampling):
        drawn = sample_rows(logits, uniform, allowed=allowed, sampling=sampling)
    else:
        drawn = sample(logits, uniform, allowed=allowed, sampling=sampling)
    token, logprob, policy = drawn
    counted = live.astype(jnp.int32)
    rows = replace(
        rows,
        pending=jnp.where(live, token, rows.pending),
        position=rows.position + counted,
        stop=jnp.where(live, stops[rows.stop.astype(jnp.int32), token], rows.stop),
        budget=rows.budget - counted,
        count=rows.count + counted,
    )
    return rows, (token, logprob, policy)


def _uniform(keys: Array, counts: Array, steps: int) -> Array:
    """The random numbers of every row's next tokens, [steps, R], each of its key and its number."""

    def number(key: Array, count: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), count))

    of_step = jax.vmap(number)
    return jax.vmap(lambda step: of_step(keys, counts + step))(jnp.arange(steps))


def _live(rows: Rows) -> Array:
    return (rows.stop != DONE) & (rows.budget > 0)


def _turned(state: State, turns: Turns) -> State:
    into = kv.everywhere(turns.rows, len(state.continued))
    rows = replace(
        state.rows,
        pending=_put(state.rows.pending, into, turns.pending),
        position=_put(state.rows.position, into, turns.position),
        budget=_put(state.rows.budget, into, turns.budget),
        stop=_put(state.rows.stop, into, jnp.full(len(into), START, jnp.uint8)),
    )
    return replace(state, rows=rows)


def _put(x: Array, rows: Array, values: Array) -> Array:
    return x.at[rows].set(values, mode="drop")


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
        copies: bool = False,
    ) -> None:
        self.traces: Counter[str] = Counter()
        self.late: list[str] = []
        self._sealed = False
        self._mesh = mesh
        state = drawn = None
        if mesh is not None:
            state = state_shardings(cfg, shapes, mesh, unstacked=unstacked, copies=copies)
            drawn = NamedSharding(mesh, PartitionSpec())
        empty = partial(empty_state, cfg, shapes, unstacked=unstacked, copies=copies)
        onto_rows = partial(extend, cfg=cfg, copies=copies)
        with _under(mesh):
            # Copies of rows would take accelerators as much memory as the rows.
            self.in_place = not kv.positions_last(cfg)
            self.reaches = self.in_place and attention_decode.kernel(cfg).kernel == "reach"
        one_chunk = partial(
            decode, cfg=cfg, steps=shapes.chunk, copies=copies, in_place=self.in_place
        )
        self.empty = self._program("empty", empty, out=state)
        self.encode = self._program("encode", partial(_encode, cfg=cfg))
        self.prefill = self._program("prefill", partial(prefill, cfg=cfg), donated=(1,), out=state)
        self.place = self._program("place", place, donated=(0,), out=state)
        self.ask = self._program("ask", partial(ask, cfg=cfg), donated=(1,), out=state)
        self.begin = self._program("begin", partial(begin, copies=copies), donated=(0,), out=state)
        self.extend = self._program("extend", onto_rows, donated=(1,), out=state)
        self.rewind = self._program("rewind", rewind, donated=(0,), out=state)
        self.decode = self._program(
            "decode", one_chunk, donated=(1,), static=(5, 6), out=(state, drawn)
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
        with _under(self.mesh):
            return self.jitted(*args)

    def prepare(self, *args: Any) -> None:
        """Compiles it for arguments of these shapes, and runs nothing: a call with such arguments
        then finds it compiled."""
        self.lower(*args).compile()

    def lower(self, *args: Any) -> Any:
        with _under(self.mesh):
            return self.jitted.lower(*args)


def _under(mesh: Mesh | None) -> Any:
    return nullcontext() if mesh is None else jax.set_mesh(mesh)
