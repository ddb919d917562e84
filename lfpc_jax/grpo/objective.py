"""The loss of an update, token by token. Pure functions.

    ratio_t = exp(log p(t) - log p_old(t))
    gain_t  = min(ratio_t A, clip(ratio_t, 1 - low, 1 + high) A)
              with `dual_clip` d and A < 0 at least d A
    loss    = - sum_t w_t c_t gain_t
              + kl  sum_t w_t (exp(d_t) - d_t - 1),  d_t = log p_ref(t) - log p(t)
              - entropy sum_t w_t H_t

The weights `w` come with the batch (see `items`). They sum to 1 over a mini-batch, by tokens or by
sequences, including the episodes that were left out because they have no gradient. So the losses of
micro-batches and shards simply add up. `c` corrects for tokens whose probability differs between
sampler and trainer: min(p_old / p_sampler, cap), or 1 without a cap.

Deviation from the formulas: exponents are at most 20, as in verl, and have no gradient beyond. An
unbounded ratio of a token with A < 0 would overflow in the loss or in the gradient's norm, and the
whole update would be refused. With the bound only that token loses its gradient; `clipped_dual`
counts it. Below the bound every value is the formula's.

Supervised fine-tuning has the loss `- sum_t w_t log p(t)`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lfpc_jax.trajectory import Batch

Scalars = dict[str, Float[Array, ""]]

FROM_DRAWN = "from_drawn"
"""The metric that is `apart_from_sampler` of the parameters before the update."""

FRESH = "fresh"
"""The weight of the tokens that it is over, where these are not all."""

MOST = 20.0
"""The largest exponent. A log-probability that changed by more is a sign of an error."""


@dataclass(frozen=True)
class Objective:
    """The loss and its coefficients. `dual_clip` bounds the ratio of tokens with a negative
    advantage, `importance_cap` the ratio between trainer and sampler; None turns either off."""

    kind: Literal["grpo", "sft"] = "grpo"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
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
        if self.dual_clip is not None and not 1 < self.dual_clip < math.inf:
            raise ValueError(
                f"{self}: dual_clip bounds ratios from above; take a number over 1, as verl's 3, "
                "or none"
            )
        if self.importance_cap is not None and not self.importance_cap >= 1:
            raise ValueError(f"{self}: an importance cap under 1 would shrink every token")


def loss_of(
    logprobs: Float[Array, "B N"],
    entropy: Float[Array, "B N"] | None,
    batch: Batch,
    objective: Objective,
) -> tuple[Float[Array, ""], Scalars]:
    """This micro-batch's part of the loss, and of the weighted sums that become metrics."""
    w, A = batch.weights, batch.advantages

    def weighed(x: Array) -> Array:
        return jnp.where(w > 0, w * x, 0.0).sum()

    if objective.kind == "sft":
        return -weighed(logprobs), {}
    from_drawn = apart_from_sampler(jax.lax.stop_gradient(logprobs), batch)
    old = jax.lax.stop_gradient(logprobs) if batch.old is None else batch.old
    change = jnp.where(w > 0, logprobs - old, 0.0)
    ratio = jnp.exp(_bounded(change))
    clipped = jnp.clip(ratio, 1 - objective.clip_low, 1 + objective.clip_high)
    gain = jnp.minimum(ratio * A, clipped * A)
    most = math.exp(MOST)
    if objective.dual_clip is not None:
        most = min(most, objective.dual_clip)
        gain = jnp.where(A < 0, jnp.maximum(gain, most * A), gain)
    apart = jnp.where(w > 0, old - batch.sampler, 0.0)
    if objective.importance_cap is not None:
        gain = gain * jnp.minimum(jnp.exp(_bounded(apart)), objective.importance_cap)
    loss = -weighed(gain)
    watched = {
        "clipped_low": weighed((ratio < 1 - objective.clip_low) & (A < 0)),
        "clipped_high": weighed((ratio > 1 + objective.clip_high) & (A > 0)),
        "clipped_dual": weighed((change > math.log(most)) & (A < 0)),
        "change_kl": weighed(_divergence(change)),
        "sampler_kl": weighed(_divergence(apart)),
        "sampler_apart": weighed(jnp.abs(apart)),
        FROM_DRAWN: from_drawn,
    }
    if batch.fresh is not None:
        watched[FRESH] = weighed(batch.fresh)
    if objective.kl:
        assert batch.reference is not None, "KL needs the reference's log-probabilities"
        away = jnp.where(w > 0, batch.reference - logprobs, 0.0)
        watched["reference_kl"] = weighed(_divergence(away))
        loss = loss + objective.kl * watched["reference_kl"]
    if objective.entropy:
        assert entropy is not None
        watched["entropy"] = weighed(entropy)
        loss = loss - objective.entropy * watched["entropy"]
    return loss, watched


def apart_from_sampler(logprobs: Float[Array, "B N"], batch: Batch) -> Float[Array, ""]:
    """The weighted sum of the distances between these log-probabilities and the sampler's. If
    nothing was trained in between, both come from the same weights and differ by rounding only.
    Tokens whose log-probability here is NaN are left out, since their update is refused as not
    finite. Tokens whose log-probability is NaN in the sampler count as infinitely far. Tokens that
    are not `fresh` are left out."""
    distance = jnp.abs(logprobs - batch.sampler)
    distance = jnp.where(jnp.isnan(distance), jnp.inf, distance)
    w = judged_weights(logprobs, batch)
    return jnp.where(w > 0, w * distance, 0.0).sum()


def judged_weights(logprobs: Float[Array, "B N"], batch: Batch) -> Float[Array, "B N"]:
    """The weights of the tokens that `apart_from_sampler` counts; 0 for the others."""
    known = ~jnp.isnan(logprobs)
    if batch.fresh is not None:
        known &= batch.fresh
    return jnp.where(known, batch.weights, 0.0)


def _bounded(log_ratio: Array) -> Array:
    return jnp.minimum(log_ratio, MOST)


def _divergence(log_ratio: Array) -> Array:
    """exp(x) - x - 1, without loss of precision near 0."""
    x = _bounded(log_ratio)
    return jnp.expm1(x) - x
