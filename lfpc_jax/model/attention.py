"""Attention: a single function that chooses a kernel for each kind of device.

A query attends to keys of its segment and of the segment that this continues (its `prefix`); if
causal, only to keys at its index or before. Segment 0 is padding and attends to itself, so that no
row of a softmax is ever empty.

- `xla` runs anywhere. It processes blocks of queries and recomputes them in the backward pass, so
  that at most `SCORE_BYTES` of scores exist at once. Causal blocks read only the keys before them.
- `splash` is the Pallas kernel for TPUs, under `shard_map` if a mesh is set. It has no mask for
  prefixes.
- `cudnn` supports rows padded at their end (`lengths`) and keys that are valid or not (`valid`).
  On a GPU packed rows (`segments`) use `xla`.

`select` chooses the kernel and gives the reason. Each trace logs the choice, and the name scope
(such as `attention_splash`) holds it, so that profiles and HLO show which kernel ran.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.distributed.sharding import partition
from lfpc_jax.model.config import Kernel
from lfpc_jax.model.tuning import tuning

log = logging.getLogger(__name__)

SCORE_BYTES = 64 * 2**20
"""The most bytes of float32 scores that the XLA kernel allocates at once on a device."""

SPLASH_BYTES = 2**30
"""The most bytes that splash's fused backward kernel may use beside its gradients on a device."""

_CAUSAL_SPANS = 8
_LEAST_SPAN = 128
_SHORT = 256
_HIDDEN = -1e30
_SPLASH_LANES = 128


@dataclass(frozen=True)
class Choice:
    kernel: str
    reason: str


def select(
    kernel: Kernel,
    *,
    platform: str,
    length: int,
    dtype: Any,
    packed: bool = False,
    continued: bool = False,
) -> Choice:
    """The kernel for self-attention over `length` tokens. If the wanted one cannot compute it,
    `xla` is chosen, and the reason says why."""
    wanted = tuning(platform).kernel if kernel == "auto" else kernel
    origin = f"the default on {platform}" if kernel == "auto" else "as configured"
    if wanted == "splash" and length < _SPLASH_LANES:
        return Choice("xla", f"{length} tokens are under splash's block of {_SPLASH_LANES}")
    if wanted == "splash" and continued:
        return Choice("xla", "splash has no mask for segments that continue another")
    if wanted == "cudnn" and packed:
        return Choice("xla", "cuDNN has no mask for packed segments")
    if wanted == "cudnn" and jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return Choice("xla", f"cuDNN takes bfloat16, not {jnp.dtype(dtype).name}")
    return Choice(wanted, origin)


def continues(kernel: Kernel, *, dtype: Any, platform: str | None = None) -> bool:
    """Whether the kernel for packed rows supports segments that continue another. `platform` is by
    default the one that JAX uses."""
    platform = tuning(platform).platform
    chosen = select(kernel, platform=platform, length=_SPLASH_LANES, dtype=dtype, packed=True)
    return chosen.kernel == "xla"


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    *,
    causal: bool,
    kernel: Kernel,
    segments: Int[Array, "B T"] | None = None,
    prefix: Int[Array, "B T"] | None = None,
    lengths: Int[Array, "B"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B T N H"]:
    """Self-attention. At most one of `segments` (with or without `prefix`), `lengths` and `valid`
    is given as a mask."""
    assert sum(mask is not None for mask in (segments, lengths, valid)) <= 1
    assert prefix is None or segments is not None
    choice = select(
        kernel,
        platform=tuning().platform,
        length=q.shape[1],
        dtype=q.dtype,
        packed=segments is not None or (causal and valid is not None),
        continued=prefix is not None,
    )
    level = logging.WARNING if kernel not in ("auto", choice.kernel) else logging.INFO
    log.log(level, "attention %s: %s (%s)", q.shape, choice.kernel, choice.reason)
    with jax.named_scope(f"attention_{choice.kernel}"):
        if choice.kernel == "cudnn":
            return _cudnn(q, k, v, causal=causal, lengths=lengths, valid=valid)
        if lengths is not None:
            valid = jnp.arange(q.shape[1]) < lengths[:, None]
        if valid is not None:
            segments = valid.astype(jnp.int32)
        if choice.kernel == "splash":
            return _splash(q, k, v, segments, causal=causal)
        keys, values = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
        return _xla(q, keys, values, segments=segments, prefix=prefix, causal=causal)


def cache_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K H S"],
    v: Float[Array, "B K S H"],
    index: Int[Array, "B T"],
) -> Float[Array, "B T N H"]:
    """Queries at positions `index` of the cache attend to all keys at or before them."""
    with jax.named_scope("attention_cache_xla"):
        return _xla(q, k, v, index=index, causal=False)


def _xla(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    segments: Array | None = None,
    prefix: Array | None = None,
    index: Array | None = None,
) -> Array:
    """Blocks of queries over keys `[B, K, H, S]` and values `[B, K, S, H]`."""
    B, T, N, H = q.shape
    K, S = k.shape[1], k.shape[3]
    scale = jnp.asarray(H**-0.5, q.dtype)
    # Query heads that share a key head are folded into rows: one large product, no repeated keys.
    queries = (q * scale).reshape(B, T, K, N // K, H).transpose(0, 2, 1, 3, 4)
    index = jnp.broadcast_to(jnp.arange(T), (B, T)) if causal else index
    block = _block(T, S, B * N)
    step = T
    if causal and T > _SHORT:
        unit = max(_LEAST_SPAN, min(block, T // _CAUSAL_SPANS))
        step = math.ceil(T / _CAUSAL_SPANS / unit) * unit
    spans = [(start, min(start + step, T)) for start in range(0, T, step)]
    out = []
    for start, stop in spans:
        rows = (
            queries[:, :, start:stop],
            *(None if x is None else x[:, start:stop] for x in (segments, prefix, index)),
        )
        read = stop if causal else S
        keys = (k, v, segments)
        out.append(_by_blocks(rows, keys, read, min(block, stop - start), recompute=block < T))
    joined = out[0] if len(out) == 1 else jnp.concatenate(out, axis=2)
    return joined.transpose(0, 2, 1, 3, 4).reshape(B, T, N, H)


def _block(queries: int, keys: int, heads: int) -> int:
    """How many queries are processed at once: all if their scores fit or rows are so short that the
    scores are no larger than activations, else the largest power of two whose scores fit."""
    mesh = jax.sharding.get_abstract_mesh()
    fit = SCORE_BYTES * (1 if mesh.empty else mesh.size) // (4 * heads * keys)
    if queries * keys <= _SHORT**2 or queries <= fit:
        return queries
    return 2 ** int(math.log2(fit)) if fit > 8 else min(8, queries)


def _by_blocks(rows: Any, keys: Any, read: int, block: int, *, recompute: bool) -> Array:
    """One span of queries over the first `read` keys, `block` queries at a time."""
    body: Callable = partial(_dense, read=read)
    if recompute:
        body = jax.checkpoint(body)
    length = rows[0].shape[2]
    whole = length // block * block
    done = []
    if whole > block:
        blocks = (
            _split(rows[0][:, :, :whole], 2, block),
            *(x if x is None else _split(x[:, :whole], 1, block) for x in rows[1:]),
        )
        out = jax.lax.map(lambda blk: body(blk, keys), blocks)
        done.append(jnp.moveaxis(out, 0, 2).reshape(*rows[0][:, :, :whole].shape))
    elif whole:
        done.append(body((rows[0][:, :, :whole], *_cut(rows[1:], 0, whole)), keys))
    if whole < length:
        done.append(body((rows[0][:, :, whole:], *_cut(rows[1:], whole, length)), keys))
    return done[0] if len(done) == 1 else jnp.concatenate(done, axis=2)


def _cut(arrays: Any, start: int, stop: int) -> Any:
    return tuple(x if x is None else x[:, start:stop] for x in arrays)


def _split(x: Array, axis: int, block: int) -> Array:
    shape = (*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(x.reshape(shape), axis, 0)


def _dense(rows: Any, keys: Any, *, read: int) -> Array:
    """Softmax attention of one block, with all of its scores in float32."""
    q, q_segments, q_prefix, q_index = rows
    k, v, k_segments = keys
    B, K, T, G, H = q.shape
    k, v = k[..., :read], v[:, :, :read]
    scores = jnp.einsum(
        "bkrh,bkhs->bkrs", q.reshape(B, K, T * G, H), k, preferred_element_type=jnp.float32
    ).reshape(B, K, T, G, read)
    visible = None
    if q_index is not None:
        visible = q_index[:, :, None] >= jnp.arange(read)
    if q_segments is not None:
        same = q_segments[:, :, None] == k_segments[:, None, :read]
        if q_prefix is not None:
            same |= q_prefix[:, :, None] == k_segments[:, None, :read]
        visible = same if visible is None else visible & same
    if visible is not None:
        scores = jnp.where(visible[:, None, :, None, :], scores, _HIDDEN)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    out = jnp.einsum(
        "bkrs,bksh->bkrh",
        weights.astype(v.dtype).reshape(B, K, T * G, read),
        v,
        preferred_element_type=jnp.float32,
    )
    return (out.reshape(B, K, T, G, H) / total).astype(q.dtype)


def _splash(
    q: Array, k: Array, v: Array, segments: Array | None, *, causal: bool, interpret: bool = False
) -> Array:
    """Pads the length to whole blocks and the head to whole lanes, and runs one kernel on each
    device."""
    B, T, N, H = q.shape
    # Long rows are padded to large blocks: many small blocks would cost more than the padding.
    longer = -T % (_SPLASH_LANES if T <= 4096 else 4 * _SPLASH_LANES)
    wider = -H % _SPLASH_LANES
    if segments is None:
        segments = jnp.ones((B, T), jnp.int32)
    segments = jnp.pad(segments, ((0, 0), (0, longer)))
    q = q * jnp.asarray(H**-0.5, q.dtype)
    q, k, v = (
        jnp.pad(x, ((0, 0), (0, longer), (0, 0), (0, wider))).transpose(0, 2, 1, 3)
        for x in (q, k, v)
    )
    run: Callable = partial(_splash_local, causal=causal, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        k, v = (_share_heads(x, mesh.shape["tensor"], N) for x in (k, v))
        heads = [
            partition(("batch", axis, None, None), x.shape, mesh)
            for x, axis in ((q, "heads"), (k, "kv_heads"))
        ]
        if heads[0][1] is None:  # query heads are not split, so key heads must not be either
            heads[1] = heads[0]
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(heads[0], heads[1], heads[1], PartitionSpec(heads[0][0])),
            out_specs=heads[0],
            check_vma=False,
        )
    return run(q, k, v, segments).transpose(0, 2, 1, 3)[:, :T, :, :H]


def _share_heads(x: Array, ways: int, heads: int) -> Array:
    """Repeats key heads so that each of `ways` devices can hold those of its query heads."""
    if heads % ways or x.shape[1] % ways == 0:
        return x
    return jnp.repeat(x, math.lcm(ways, x.shape[1]) // x.shape[1], axis=1)


def _splash_local(
    q: Array, k: Array, v: Array, segments: Array, *, causal: bool, interpret: bool
) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    B, N, T, H = q.shape
    block = next(size for size in (1024, 512, 256, 128) if T % size == 0)
    # The fused backward kernel is faster, but stores a gradient of the queries per key block.
    fused = 4 * B * N * T * H * (T // block) <= SPLASH_BYTES
    unfused_block = None if fused else block
    mask = (splash.CausalMask if causal else splash.FullMask)((T, T))
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * N),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=unfused_block,
            block_kv_dq=unfused_block,
            use_fused_bwd_kernel=fused,
        ),
        interpret=interpret,
    )

    def row(q: Array, k: Array, v: Array, segments: Array) -> Array:
        return kernel(q, k, v, splash.SegmentIds(segments, segments))

    return jax.vmap(row)(q, k, v, segments)


def _cudnn(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    lengths: Array | None,
    valid: Array | None,
    implementation: Any = "cudnn",
) -> Array:
    """Keys that are not `valid` are hidden by eight more columns of the head: the queries have a
    constant there, and those keys a large negative number. cuDNN's mask would be a `[T, T]` bias in
    memory."""
    H = q.shape[-1]
    scale = H**-0.5
    if valid is not None:
        hide = jnp.where(valid, 0.0, -1e4)[:, :, None, None].astype(k.dtype)
        q = jnp.concatenate([q, jnp.full((*q.shape[:-1], 8), 1 / scale, q.dtype)], axis=-1)
        k = jnp.concatenate([k, jnp.broadcast_to(hide, (*k.shape[:-1], 8))], axis=-1)
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, 8)))
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return out[..., :H]
