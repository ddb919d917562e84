"""Attention by cuDNN, for NVIDIA GPUs.

Packed rows are lists of sequences in one of two forms (`sequence_layouts`): in place on GPUs from
Hopper on, and gathered into rows of their own on older ones. Attention within segments and
attention to prefixes are computed apart and merged by their log-sum-exp. The backward pass gives
cuDNN the merged output and log-sum-exp for each part, so that the weights that it recomputes are
those of the whole softmax; the gradients of the parts add up. Nothing has the size of a row's
scores.

JAX has no public function for the packed layout. `_forward` and `_backward` bind the primitives
beneath its private one. That one also scales the starts of grouped keys by the number of query
heads in jax 0.10 (corrected in 0.11), and asks the local devices which GPU they are.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from lfpc_jax.model import packed_sequences
from lfpc_jax.model.attention_devices import by_device
from lfpc_jax.model.attention_splash import SAVED
from lfpc_jax.model.config import TextConfig, VisionConfig
from lfpc_jax.model.packed_sequences import Ranges, Tier
from lfpc_jax.model.sequence_layouts import Form, Gathered, InPlace, Layout

AMPERE, HOPPER = (8, 0), (9, 0)
"""CUDA's capabilities of the first GPUs of these generations."""

_ABSENT: ContextVar[tuple[int, int] | None] = ContextVar("absent GPU", default=None)
_HIDDEN = -1e4
_COLUMNS = 8
_RATIO_IN_PLACE, _RATIO_GATHERED = 8, 4
"""Of tiers. A smaller ratio means more calls, which each allocate or gather less."""


def cudnn(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool,
    lengths: Array | None,
    valid: Array | None,
    implementation: Any = "cudnn",
) -> Array:
    """Rows that are padded at their end (`lengths`), or whose keys are `valid` or not."""
    H = q.shape[-1]
    scale = H**-0.5
    if valid is not None:
        q, k, v = _hidden(q, k, v, valid, scale)
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


def _hidden(q: Array, k: Array, v: Array, valid: Array, scale: float) -> tuple[Array, ...]:
    """Keys that are not `valid` are hidden by eight more columns of the head: the queries have a
    constant there, and those keys a large negative number. cuDNN's mask would be a `[T, T]` bias in
    memory."""
    hide = jnp.where(valid, 0.0, _HIDDEN)[:, :, None, None].astype(k.dtype)
    q = jnp.concatenate([q, jnp.full((*q.shape[:-1], _COLUMNS), 1 / scale, q.dtype)], axis=-1)
    k = jnp.concatenate([k, jnp.broadcast_to(hide, (*k.shape[:-1], _COLUMNS))], axis=-1)
    v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, _COLUMNS)))
    return q, k, v


@contextmanager
def compiled_for(capability: tuple[int, int] | None) -> Iterator[None]:
    """Traces what is called within for a GPU that is not there, of this CUDA capability; None for
    the devices that are."""
    token = _ABSENT.set(capability)
    try:
        yield
    finally:
        _ABSENT.reset(token)


def capability() -> tuple[int, int]:
    """CUDA's capability of the GPU that is compiled for: a Hopper's in a process without a GPU that
    does not say, and (0, 0) for a GPU that is not NVIDIA's."""
    if absent := _ABSENT.get():
        return absent
    if jax.default_backend() != "gpu":
        return HOPPER
    said = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    numbers = re.fullmatch(r"(\d+)\.(\d+)", said)
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)


def in_place() -> bool:
    """Whether cuDNN has the packed layout on the GPU that is compiled for."""
    return capability() >= HOPPER


def gathered_bytes(
    cfg: TextConfig | VisionConfig, rows: int, length: int, itemsize: int, *, causal: bool
) -> int:
    """What a backward pass holds of packed rows of so many tokens where sequences are gathered:
    queries, outputs, keys and values, and the gradients of all four, in the tier with the most
    places."""
    heads = cfg.heads + (cfg.kv_heads if isinstance(cfg, TextConfig) else cfg.heads)
    width = cfg.head_dim if causal else cfg.head_dim + _COLUMNS
    return 4 * rows * packed_sequences.most_gathered(length) * heads * width * itemsize


def packed(
    q: Array, k: Array, v: Array, segments: Array, prefix: Array | None, *, causal: bool
) -> Array:
    """Packed rows, on each device of the mesh if one is set. A row that is not in the order of
    `packed_sequences` is NaN. Padding is 0 where `causal`; otherwise it may lie between tokens of a
    segment, and its keys are hidden."""
    T = q.shape[1]
    assert prefix is None or causal
    longer = packed_sequences.padding(T)
    masks = tuple(x if x is None else jnp.pad(x, ((0, 0), (0, longer))) for x in (segments, prefix))
    q, k, v = (jnp.pad(x, ((0, 0), (0, longer), (0, 0), (0, 0))) for x in (q, k, v))
    kernel = partial(_local, causal=causal)
    return by_device(kernel, q, k, v, masks, axis=2)[:, :T]


def _check(B: int, T: int, N: int, H: int) -> None:
    widest = 256 if in_place() else 128
    if H % 8 or H > widest:
        raise ValueError(
            f"attention heads of {H}: cuDNN takes multiples of 8 up to {widest} for packed rows; "
            'set model.kernel to "xla"'
        )
    places = T if in_place() else packed_sequences.most_gathered(T)
    if B * places * N * H >= 2**31:
        raise ValueError(
            f"{B} rows of {T} tokens with {N} heads of {H}: cuDNN counts the elements of packed "
            "rows in 32 bits; lower the rows of a micro-batch or row_tokens"
        )


def _local(
    q: Array, k: Array, v: Array, masks: tuple[Array, Array | None], *, causal: bool
) -> Array:
    segments, prefix = masks
    H = q.shape[-1]
    scale = H**-0.5
    right = jnp.ones(len(segments), bool)
    if not causal:
        valid = segments > 0
        q, k, v = _hidden(q, k, v, valid, scale)
        filled = packed_sequences.gaps_filled(segments)
        right = (~valid | (filled == segments)).all(axis=1)
        segments = filled
    _check(*q.shape)
    right &= packed_sequences.in_order(segments, prefix)
    # cuDNN would read and write wherever the ranges of a wrong row happened to be.
    segments = jnp.where(right[:, None], segments, 0)
    if prefix is not None:
        prefix = jnp.where(right[:, None], prefix, 0)
    options = PackedOptions(causal, scale, in_place=in_place())
    out = _attend(q, k, v, segments, prefix, options)[..., :H]
    return jnp.where(right[:, None, None, None], out, jnp.nan)


class PackedOptions(NamedTuple):
    """What is static, and the form in which cuDNN is given sequences."""

    causal: bool
    scale: float
    in_place: bool

    def form(self, tier: Tier) -> Form:
        return InPlace(tier) if self.in_place else Gathered(tier)

    def tiers(self, ranges: Ranges) -> list[Tier]:
        return packed_sequences.tiers(ranges, _RATIO_IN_PLACE if self.in_place else _RATIO_GATHERED)

    def of_prefixes(self) -> "PackedOptions":
        """Of the part in which every query sees all keys of its sequence."""
        return self._replace(causal=False)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    q: Array, k: Array, v: Array, segments: Array, prefix: Array | None, options: PackedOptions
) -> Array:
    return _attend_forward(q, k, v, segments, prefix, options)[0]


def _attend_forward(
    q: Array, k: Array, v: Array, segments: Array, prefix: Array | None, options: PackedOptions
) -> tuple[Array, tuple]:
    with jax.named_scope("attention_own"):
        out, total = _part(q, k, v, packed_sequences.own(segments), options)
    if prefix is not None:
        continued = packed_sequences.continued(segments, prefix)
        with jax.named_scope("attention_to_prefixes"):
            other, more = _part(q, k, v, continued, options.of_prefixes())
        more = jnp.where((continued.queries > 0)[..., None], more, -jnp.inf)
        whole = jnp.logaddexp(total, more)
        share, other_share = (jnp.exp(x - whole)[..., None] for x in (total, more))
        out, total = (out * share + other * other_share).astype(q.dtype), whole
    out, total = checkpoint_name(out, SAVED), checkpoint_name(total, SAVED)
    return out, (q, k, v, segments, prefix, out, total)


def _attend_backward(options: PackedOptions, saved: tuple, gradient: Array) -> tuple:
    q, k, v, segments, prefix, out, total = saved
    run = partial(_part_backward, q, k, v, out, total, gradient)
    with jax.named_scope("attention_own"):
        gradients = run(packed_sequences.own(segments), options)
    if prefix is not None:
        with jax.named_scope("attention_to_prefixes"):
            more = run(packed_sequences.continued(segments, prefix), options.of_prefixes())
        gradients = tuple(
            (x.astype(jnp.float32) + y).astype(x.dtype) for x, y in zip(gradients, more)
        )
    return (*gradients, None, None)


_attend.defvjp(_attend_forward, _attend_backward)


def _part(
    q: Array, k: Array, v: Array, ranges: Ranges, options: PackedOptions
) -> tuple[Array, Array]:
    """The output of a part and its log-sum-exp `[B, T, N]`, both 0 for tokens that are no query of
    it."""

    def run(tier: Tier, out: Array, lse: Array) -> tuple[Array, Array]:
        form = options.form(tier)
        new, stats = _forward(
            form.queries(q),
            form.keys(k),
            form.keys(v),
            form.layout(q, k),
            causal=options.causal,
            scale=options.scale,
        )
        query = tier.is_query[..., None]
        lse = jnp.where(query, stats[tier.number, :, tier.place], lse)
        return jnp.where(query[..., None], form.of_queries(new, q), out), lse

    nothing = jnp.zeros_like(q), jnp.zeros(q.shape[:3], jnp.float32)
    return _by_tiers(run, options, options.tiers(ranges), nothing)


def _part_backward(
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    total: Array,
    gradient: Array,
    ranges: Ranges,
    options: PackedOptions,
) -> tuple[Array, ...]:
    """What a part adds to the gradients of queries, keys and values, given the output and the
    log-sum-exp of the whole."""

    def run(tier: Tier, *done: Array) -> tuple[Array, ...]:
        ahead = jnp.arange(tier.longest)
        places = tier.query_start[:, None] + ahead
        stats = jnp.take(total.reshape(-1, total.shape[-1]), places, axis=0, mode="clip")
        # The weights of places behind a sequence are 0.
        stats = jnp.where((ahead < tier.queries[:, None])[..., None], stats, jnp.inf)
        form = options.form(tier)
        dq, dk, dv = _backward(
            form.queries(q),
            form.keys(k),
            form.keys(v),
            stats.transpose(0, 2, 1),
            form.queries(out),
            form.queries(gradient),
            form.layout(q, k),
            causal=options.causal,
            scale=options.scale,
        )
        new = form.of_queries(dq, q), form.of_keys(dk, k), form.of_keys(dv, v)
        written = tier.is_query, tier.is_key, tier.is_key
        return tuple(
            jnp.where(mask[..., None, None], x, old) for mask, x, old in zip(written, new, done)
        )

    nothing = tuple(map(jnp.zeros_like, (q, k, v)))
    return _by_tiers(run, options, options.tiers(ranges), nothing)


def _by_tiers(run: Callable, options: PackedOptions, tiers: Sequence[Tier], done: tuple) -> tuple:
    """What each tier adds to what the ones before it have done. Most rows have no short sequences,
    so one branch skips all tiers from one on that are empty. Where sequences are gathered, which
    copies as much for an empty tier as for a full one, each has a branch of its own as well."""
    first, *rest = tiers

    def of_first(*done: Array) -> tuple:
        with jax.named_scope(f"tier_{first.longest}"):
            return run(first, *done)

    def unchanged(*done: Array) -> tuple:
        return done

    if options.in_place:
        done = of_first(*done)
    else:
        done = jax.lax.cond(first.is_query.any(), of_first, unchanged, *done)
    if not rest:
        return done
    some = jnp.stack([tier.is_query.any() for tier in rest]).any()
    return jax.lax.cond(some, lambda *x: _by_tiers(run, options, rest, x), unchanged, *done)


def _forward(
    q: Array, k: Array, v: Array, layout: Layout, *, causal: bool, scale: float
) -> tuple[Array, Array]:
    """Output `[R, L, N, H]` and log-sum-exp `[R M, N, L]`, the latter by sequence and place in it.
    Neither is defined outside the sequences."""
    jax_cudnn = _jax_cudnn()
    out, stats = jax_cudnn._dot_product_attention_fwd_p.bind(
        *_operands(q, k, v, layout), is_training=True, **_options(jax_cudnn, causal, scale)
    )
    return out, stats


def _backward(
    q: Array,
    k: Array,
    v: Array,
    stats: Array,
    out: Array,
    gradient: Array,
    layout: Layout,
    *,
    causal: bool,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Gradients of queries, keys and values for a log-sum-exp and an output that are given. They
    are not defined outside the sequences."""
    jax_cudnn = _jax_cudnn()
    dq, dk, dv = jax_cudnn._dot_product_attention_bwd_p.bind(
        *_operands(q, k, v, layout), stats, out, gradient, **_options(jax_cudnn, causal, scale)
    )
    return dq, dk, dv


def _operands(q: Array, k: Array, v: Array, layout: Layout) -> tuple[Array, ...]:
    none = jnp.zeros(0, q.dtype)  # bias, and later two page tables
    return q, k, v, none, *layout, none, none


def _options(jax_cudnn: Any, causal: bool, scale: float) -> dict[str, Any]:
    mask = jax_cudnn.MaskType.PADDING_CAUSAL if causal else jax_cudnn.MaskType.PADDING
    return {
        "scale": scale,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),
        "mask_type": mask,
        "layout": jax_cudnn.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }


def _jax_cudnn() -> Any:
    """JAX's private module, if it still has what is used here."""
    needed = (
        "_dot_product_attention_fwd_p",
        "_dot_product_attention_bwd_p",
        "MaskType",
        "AttentionLayout",
    )
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module

        missing = [name for name in needed if not hasattr(module, name)]
    except ImportError as error:
        missing = [str(error)]
    if missing:
        raise RuntimeError(
            f"jax {jax.__version__} lacks {', '.join(missing)} of its cuDNN attention, which "
            "packed rows need on a GPU; install a jax from 0.10.2 to 0.11.2, or set model.kernel "
            'to "xla"'
        )
    return module
