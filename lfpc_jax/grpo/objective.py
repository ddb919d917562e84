"""What an update maximises, token by token. Pure.

    ratio_t = exp(log p(t) - log p_old(t))
    loss    = - sum_t w_t c_t min(ratio_t A, clip(ratio_t, 1 - low, 1 + high) A)
              + kl  sum_t w_t (exp(d_t) - d_t - 1),  d_t = log p_ref(t) - log p(t)
              - entropy sum_t w_t H_t

The weights `w` are the batch's own (see items): they sum to 1 over a mini-batch, by tokens or by
sequences and with what was left out for want of a gradient, so micro-batches and shards simply add
up. `c` truncates the importance of a token whose probability differed between sampler and trainer:
min(p_old / p_sampler, cap), 1 without.
Supervised fine-tuning is `- sum_t w_t log p(t)`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfpc_jax.trajectory import Batch

Scalars = dict[str, Float[Array, ""]]


@dataclass(frozen=True)
class Objective:
    """`importance_cap` None is off; `kl` and `entropy` are coefficients."""

    kind: Literal["grpo", "sft"] = "grpo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    entropy: float = 0.0
    importance_cap: float | None = None

    def __post_init__(self) -> None:
        if not (0 < self.clip_low <= 1 and self.clip_high > 0):
            raise ValueError(f"{self}: clip_low must lie in 0..1, clip_high over 0")
        if not (0 <= self.kl < math.inf and 0 <= self.entropy < math.inf):
            raise ValueError(f"{self}: kl and entropy must be finite and not under 0; 0 is off")
        if self.kind == "sft" and (self.kl or self.entropy):
            raise ValueError(f"{self}: sft imitates and has neither; set kl and entropy to 0")
        if self.importance_cap is not None and not self.importance_cap >= 1:
            raise ValueError(f"{self}: an importance cap under 1 would shrink every token")


def loss_of(
    logprobs: Float[Array, "B T"],
    entropy: Float[Array, "B T"] | None,
    batch: Batch,
    how: Objective,
) -> tuple[Float[Array, ""], Scalars]:
    """This micro-batch's part of the loss, and of the weighted sums that are worth watching."""
    w, A = batch.weights, batch.advantages

    def weighed(x: Array) -> Array:
        return jnp.where(w > 0, w * x, 0.0).sum()

    if how.kind == "sft":
        return -weighed(logprobs), {}
    old = jax.lax.stop_gradient(logprobs) if batch.old is None else batch.old
    change = jnp.where(w > 0, logprobs - old, 0.0)
    ratio = jnp.exp(change)
    clipped = jnp.clip(ratio, 1 - how.clip_low, 1 + how.clip_high)
    gain = jnp.minimum(ratio * A, clipped * A)
    apart = jnp.where(w > 0, old - batch.sampler, 0.0)
    if how.importance_cap is not None:
        gain = gain * jnp.minimum(jnp.exp(apart), how.importance_cap)
    loss = -weighed(gain)
    watched = {
        "clipped_low": weighed((ratio < 1 - how.clip_low) & (A < 0)),
        "clipped_high": weighed((ratio > 1 + how.clip_high) & (A > 0)),
        "change_kl": weighed(jnp.expm1(change) - change),
        "sampler_kl": weighed(jnp.expm1(apart) - apart),
        "sampler_apart": weighed(jnp.abs(apart)),
    }
    if how.kl:
        assert batch.reference is not None, "KL needs the reference's log-probabilities"
        away = jnp.where(w > 0, batch.reference - logprobs, 0.0)
        watched["reference_kl"] = weighed(jnp.expm1(away) - away)
        loss = loss + how.kl * watched["reference_kl"]
    if how.entropy:
        assert entropy is not None
        watched["entropy"] = weighed(entropy)
        loss = loss - how.entropy * watched["entropy"]
    return loss, watched
