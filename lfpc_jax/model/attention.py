"""Attention: a single function that chooses a kernel for each kind of device.

A query attends to keys of its segment and of the segment that this continues (its `prefix`); if
causal, only to keys at its index or before. Segment 0 is padding and attends to itself, so that no
row of a softmax is ever empty.

- `xla` runs anywhere (`attention_xla`).
- `splash` is the Pallas kernel for TPUs (`attention_splash`). Rows with prefixes may have up to
  32,768 tokens.
- `cudnn` (`attention_cudnn`) is for NVIDIA's GPUs from Ampere on. Packed rows (`segments`) must be
  in the order that packing writes.

Decode steps have two of their own, for a query a row over what is cached:

- `reach` is a Pallas kernel for TPUs (`attention_reach`), which reads every row as far as it
  reaches, in place.
- `xla` reads working copies of the live rows (`cache.Working`), as far as the longest.

`select` and `select_decode` choose the kernel and give the reason. Each trace logs the choice, and
the name scope (such as `attention_splash`) holds it, so that profiles and HLO show which kernel
ran.
"""

import logging
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.model import attention_cudnn, attention_splash, attention_xla
from lfpc_jax.model.config import Kernel
from lfpc_jax.model.tuning import tuning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenKernel:
    kernel: str
    reason: str


def select(
    kernel: Kernel,
    *,
    platform: str,
    length: int,
    dtype: Any,
    continued: bool = False,
    causal_and_valid: bool = False,
) -> ChosenKernel:
    """The kernel for self-attention over `length` tokens. If the wanted one cannot compute it,
    `xla` is chosen, and the reason says why."""
    wanted = tuning(platform).kernel if kernel == "auto" else kernel
    origin = f"the default on {platform}" if kernel == "auto" else "as configured"
    if wanted == "splash" and length < attention_splash.LANES:
        return ChosenKernel(
            "xla", f"{length} tokens are under splash's block of {attention_splash.LANES}"
        )
    longest = attention_splash.LONGEST
    if wanted == "splash" and continued and length > longest:
        return ChosenKernel(
            "xla", f"{length} tokens are over splash's {longest} of rows with prefixes"
        )
    if wanted == "cudnn" and causal_and_valid:
        return ChosenKernel("xla", "cuDNN has no mask for causal rows whose keys are valid or not")
    if wanted == "cudnn" and attention_cudnn.capability() < attention_cudnn.AMPERE:
        return ChosenKernel("xla", "cuDNN's attention is for NVIDIA's GPUs from Ampere on")
    if wanted == "cudnn" and jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return ChosenKernel("xla", f"cuDNN takes bfloat16, not {jnp.dtype(dtype).name}")
    return ChosenKernel(wanted, origin)


def select_decode(kernel: Kernel, *, platform: str, positions_last: bool) -> ChosenKernel:
    """The kernel for decode steps. `positions_last` is the layout of the cache's keys."""
    wanted = tuning(platform).kernel if kernel == "auto" else kernel
    origin = f"the default on {platform}" if kernel == "auto" else "as configured"
    if wanted == "cudnn":
        return ChosenKernel(
            "xla",
            "cuDNN reads whole arrays only, so at every step each layer would be copied out of the "
            "cache's stack, unused places included",
        )
    if wanted == "splash" and positions_last:
        return ChosenKernel(
            "xla", "the kernel for TPUs reads keys [B, K, S, H], and these are [B, K, H, S]"
        )
    return ChosenKernel("reach" if wanted == "splash" else "xla", origin)


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
        continued=prefix is not None,
        causal_and_valid=causal and valid is not None,
    )
    level = logging.WARNING if kernel not in ("auto", choice.kernel) else logging.INFO
    log.log(level, "attention %s: %s (%s)", q.shape, choice.kernel, choice.reason)
    with jax.named_scope(f"attention_{choice.kernel}"):
        if choice.kernel == "cudnn" and segments is not None:
            return attention_cudnn.packed(q, k, v, segments, prefix, causal=causal)
        if choice.kernel == "cudnn":
            return attention_cudnn.cudnn(q, k, v, causal=causal, lengths=lengths, valid=valid)
        if lengths is not None:
            valid = jnp.arange(q.shape[1]) < lengths[:, None]
        if valid is not None:
            segments = valid.astype(jnp.int32)
        if choice.kernel == "splash":
            return attention_splash.splash(q, k, v, segments, prefix, causal=causal)
        return attention_xla.self_attention(
            q, k, v, segments=segments, prefix=prefix, causal=causal
        )
