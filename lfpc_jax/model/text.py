"""The decoder: whole rows at once (`forward`), or with a cache (`prefill`, `extend`).

All three run the same layer and differ in its attention. `extend` appends any number of tokens to
each row at the row's offset, so the same function serves for chunked prefill, to insert an
observation, and for a decode step.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.arrays import Tree
from lfpc_jax.distributed.sharding import constrain
from lfpc_jax.model import attention_decode
from lfpc_jax.model import cache as kv
from lfpc_jax.model.attention import attention
from lfpc_jax.model.attention_observed import Continued, observed
from lfpc_jax.model.attention_parts import Members
from lfpc_jax.model.attention_prompts import PromptCopies
from lfpc_jax.model.config import ModelConfig
from lfpc_jax.model.layers import each_layer, gated_mlp, linear, rms_norm
from lfpc_jax.model.rotary import Rotary, rotate, text_rotary

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


def layer(p: Tree, x: Array, rotary: Rotary, attend: Attend, eps: float) -> tuple[Array, Any]:
    """One decoder layer. The second value that `attend` returns is returned, too."""
    h = rms_norm(x, p["norm1"], eps)
    q = rotate(linear(h, p["q"]), rotary)
    k, v = _keys_and_values(h, p)
    out, kept = attend(q, rotate(k, rotary), v)
    x = x + linear(out, p["o"], inputs=2)
    x = x + gated_mlp(rms_norm(x, p["norm2"], eps), p)
    return constrain(x, "batch", None, None), kept


def _keys_and_values(h: Array, p: Tree) -> tuple[Array, Array]:
    if "kv" not in p:
        return linear(h, p["k"]), linear(h, p["v"])
    k, v = jnp.split(linear(h, p["kv"]), 2, axis=-2)
    return k, v


def paired(params: Tree) -> Tree:
    """Unstacked parameters with which keys and values are computed in one product, which for many
    tokens is faster on a CPU. Layers where LoRA has factors for either are left as they are."""

    def with_pair(p: Tree) -> Tree:
        if "lora" in p["k"] or "lora" in p["v"]:
            return p
        both = jax.tree.map(lambda k, v: jnp.concatenate([k, v], axis=-2), p["k"], p["v"])
        return {**p, "kv": both}

    return {**params, "text": tuple(with_pair(p) for p in params["text"])}


def forward(
    params: Tree,
    x: Float[Array, "B T D"],
    positions: Int[Array, "3 B T"],
    *,
    cfg: ModelConfig,
    segments: Int[Array, "B T"],
    prefix: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T D"]:
    """Hidden states of whole rows. A token attends to itself and to earlier tokens of its segment
    and of the segment that this continues."""
    rotary = text_rotary(positions, cfg.text)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
        mask = {"segments": segments, "prefix": prefix}
        return attention(q, k, v, causal=True, **mask, kernel=cfg.kernel), None

    def body(x: Array, scanned: tuple[Tree, None]) -> tuple[Array, None]:
        return layer(scanned[0], x, rotary, attend, cfg.text.eps)

    x, _ = each_layer(body, x, params["text"], None, remat=cfg.remat)
    return rms_norm(x, params["norm"], cfg.text.eps)


def last_weights(
    params: Tree,
    x: Float[Array, "B T D"],
    positions: Int[Array, "3 B T"],
    lengths: Int[Array, "B"],
    *,
    cfg: ModelConfig,
    depth: int,
) -> Float[Array, "B N T"]:
    """How much each head of the layer at `depth` attends from the last token of a row to every
    token of it, in float32. Rows are padded at their end. Later layers are not computed."""
    rotary = text_rotary(positions, cfg.text)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
        return attention(q, k, v, causal=True, lengths=lengths, kernel=cfg.kernel), None

    def body(x: Array, scanned: tuple[Tree, None]) -> tuple[Array, None]:
        return layer(scanned[0], x, rotary, attend, cfg.text.eps)

    x, _ = each_layer(body, x, _part(params["text"], slice(depth)), None)
    p = _part(params["text"], depth)
    h = rms_norm(x, p["norm1"], cfg.text.eps)
    q, k = rotate(linear(h, p["q"]), rotary), rotate(_keys_and_values(h, p)[0], rotary)
    B, T, K, H = k.shape
    last = jnp.take_along_axis(q, (lengths - 1)[:, None, None, None], axis=1)
    scores = jnp.einsum(
        "bkgh,btkh->bkgt", last.reshape(B, K, -1, H), k, preferred_element_type=jnp.float32
    )
    visible = jnp.arange(T) < lengths[:, None]
    scores = jnp.where(visible[:, None, None], scores * H**-0.5, -jnp.inf)
    return jax.nn.softmax(scores, axis=-1).reshape(B, -1, T)


def prefill(
    params: Tree,
    x: Float[Array, "B T D"],
    positions: Int[Array, "3 B T"],
    lengths: Int[Array, "B"],
    *,
    cfg: ModelConfig,
    capacity: int,
) -> tuple[Float[Array, "B T D"], kv.Cache]:
    """Hidden states of rows padded at their end, and a new cache that holds them."""
    assert x.shape[1] <= capacity, (x.shape, capacity)
    rotary = text_rotary(positions, cfg.text)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        return attention(q, k, v, causal=True, lengths=lengths, kernel=cfg.kernel), (k, v)

    def body(x: Array, scanned: tuple[Tree, None]) -> tuple[Array, tuple[Array, Array]]:
        return layer(scanned[0], x, rotary, attend, cfg.text.eps)

    x, kept = each_layer(body, x, params["text"], None)
    keys, values = kept if not isinstance(kept[0], tuple) else zip(*kept)
    last = kv.positions_last(cfg)
    cache = kv.filled(_layers(keys), _layers(values), lengths, capacity, positions_last=last)
    return rms_norm(x, params["norm"], cfg.text.eps), cache


def extend(
    params: Tree,
    x: Float[Array, "R T D"],
    positions: Int[Array, "3 R T"],
    lengths: Int[Array, "R"],
    cache: kv.Cache,
    *,
    cfg: ModelConfig,
    rows: Int[Array, "R"] | None = None,
    prompts: kv.Cache | None = None,
    continued: Int[Array, "R"] | None = None,
) -> tuple[Float[Array, "R T D"], kv.Cache]:
    """Appends the first `lengths[r]` tokens of each row (0 is allowed) to the cache. If `rows` is
    given, they are the cache's rows to append to; numbers past the last row are padding. If
    `prompts` are given, each row continues that one of them which `continued` names. On a mesh,
    rows of both are numbered within their shard.

    Tokens past the capacity are dropped, so the caller must check that there is room."""
    rotary = text_rotary(positions, cfg.text)
    ahead = jnp.arange(x.shape[1])
    old = cache.length if rows is None else kv.length_of(cache, rows)
    index, reach = old[:, None] + ahead, old.max() + x.shape[1]
    to = None
    if prompts is not None:
        assert continued is not None
        to = Continued.by(prompts, continued)
    written_at = jnp.where(ahead < lengths[:, None], index, cache.capacity)

    def body(carry: tuple[Array, kv.Cache], scanned: tuple[Tree, Any]) -> Any:
        x, cache = carry
        p, number = scanned

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, kv.Cache]:
            written = kv.write(cache, number, k, v, written_at, rows)
            out = observed(q, written, number, index, reach, rows=rows, continued=to)
            return out, written

        return layer(p, x, rotary, attend, cfg.text.eps), None

    numbers = np.arange(cfg.text.layers)
    (x, cache), _ = each_layer(body, (x, cache), params["text"], numbers)
    x = rms_norm(x, params["norm"], cfg.text.eps)
    return x, replace(cache, length=kv.added(cache.length, rows, lengths))


def decode(
    params: Tree,
    x: Float[Array, "R 1 D"],
    positions: Int[Array, "3 R 1"],
    working: kv.Working | kv.Cache,
    step: Int[Array, ""],
    *,
    cfg: ModelConfig,
    live: Bool[Array, "R"],
    span: int | None = None,
    prompts: kv.Cache | PromptCopies | None = None,
    members: Members | None = None,
) -> tuple[Float[Array, "R 1 D"], kv.Working | kv.Cache]:
    """Appends one token to every row of working copies, in the given step of a loop, or to every
    live row of a whole cache, which may not grow beyond `span`. Rows continue
    `prompts` as `members` say, or none."""
    rotary = text_rotary(positions, cfg.text)
    c = cfg.text
    if isinstance(working, kv.Cache):
        assert not isinstance(prompts, PromptCopies)
        here = attention_decode.in_place(working, live, span, prompts, members, cfg=cfg)
    else:
        here = attention_decode.in_copies(working, step, prompts, members)

    def body(carry: tuple[Array, Any], scanned: tuple[Tree, Any]) -> Any:
        x, working = carry
        p, number = scanned

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
            now = here.append(working, number, k, v)
            return here.attend(q, now, number), now

        return layer(p, x, rotary, attend, c.eps), None

    (x, working), _ = each_layer(body, (x, working), params["text"], np.arange(c.layers))
    if isinstance(working, kv.Cache):
        working = replace(working, length=working.length + live)
    return rms_norm(x, params["norm"], c.eps), working


def _part(layers: Tree, part: int | slice) -> Tree:
    """One layer, or several, stacked or not."""
    return layers[part] if isinstance(layers, tuple) else jax.tree.map(lambda w: w[part], layers)


def _layers(x: Any) -> Any:
    return x if isinstance(x, jax.Array) else tuple(x)
