"""One token a row from its logits: by inverse distribution function, without a sort.

A row's token depends on its logits and its own uniform number alone, never on its slot or its
neighbours. Banned ids get no probability in any distribution, the policy's own included.

The policy is what updates improve: the model at the temperature of sampling, without top-k and
top-p. So without these it is the distribution that is drawn from, to the bit.

Deviations from the textbook: tokens whose probability ties with the last one inside top-k or top-p
are all kept; at temperature 0 the token is the most likely one and its log-probability 0, while the
policy is that of temperature 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lfpc_jax.model.logprobs import NEVER

_BLOCK = 256

COLDEST = 1e-3


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Top-k 0 and top-p 1 are off; temperature 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        finite = 0 <= self.temperature < math.inf
        if not finite or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"{self}: need a finite temperature >= 0, top_k >= 0 (0: off) and 0 < top_p <= 1 "
                "(1: off)"
            )
        if 0 < self.temperature < COLDEST:
            raise ValueError(
                f"{self}: logits divided by so little overflow; take a temperature of at least "
                f"{COLDEST}, or 0 for the most likely token"
            )

    @property
    def truncates(self) -> bool:
        """Whether some tokens of the policy are never drawn."""
        return self.top_k > 0 or self.top_p < 1


def sample(
    logits: Float[Array, "B V"],
    uniform: Float[Array, "B"],
    *,
    allowed: Bool[Array, "V"],
    sampling: Sampling,
) -> tuple[Int[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """The tokens drawn, their log-probabilities in the distribution that was sampled from, and
    those in the policy."""
    policy, weights = _distributions(logits, allowed, sampling)
    if sampling.temperature == 0:
        token = policy.argmax(axis=-1).astype(jnp.int32)
    else:
        token = draw(weights, uniform)
    return token, *_logprobs(policy, weights, token, sampling)


def logprobs(
    logits: Float[Array, "B V"],
    token: Int[Array, "B"],
    *,
    allowed: Bool[Array, "V"],
    sampling: Sampling,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """The two log-probabilities that `sample` would return if it drew these tokens."""
    return _logprobs(*_distributions(logits, allowed, sampling), token, sampling)


def _distributions(logits: Array, allowed: Array, sampling: Sampling) -> tuple[Array, Array]:
    """The policy's log-probabilities, and unnormalised probabilities to draw from."""
    scaled = logits.astype(jnp.float32) / (sampling.temperature or 1.0)
    policy = jax.nn.log_softmax(jnp.where(allowed, scaled, NEVER))
    if sampling.temperature == 0:
        return policy, jnp.exp(policy)
    weights = jnp.exp(policy - policy.max(axis=-1, keepdims=True))
    return policy, keep_likely(jnp.where(allowed, weights, 0.0), sampling)


def _logprobs(
    policy: Array, weights: Array, token: Array, sampling: Sampling
) -> tuple[Array, Array]:
    of_policy = _at(policy, token)
    if sampling.temperature == 0:
        return jnp.zeros_like(of_policy), of_policy
    if not sampling.truncates:
        return of_policy, of_policy
    return jnp.log(_at(weights, token)) - jnp.log(weights.sum(axis=-1)), of_policy


def keep_likely(weights: Float[Array, "B V"], sampling: Sampling) -> Float[Array, "B V"]:
    """Unnormalised probabilities; those outside top-k, and then those outside top-p, become 0."""
    if sampling.top_k and sampling.top_k < weights.shape[-1]:
        enough = lambda kept: (kept > 0).sum(axis=-1) >= sampling.top_k  # noqa: E731
        weights = keep_largest(weights, enough)
    if sampling.top_p < 1:
        mass = sampling.top_p * weights.sum(axis=-1)
        weights = keep_largest(weights, lambda kept: kept.sum(axis=-1) >= mass)
    return weights


def draw(weights: Float[Array, "B V"], uniform: Float[Array, "B"]) -> Int[Array, "B"]:
    """The first token at which the running sum exceeds `uniform` times the total. Its block is
    found first, then its place in the block. A token of weight 0 is never drawn."""
    B, V = weights.shape
    blocks = jnp.pad(weights, ((0, 0), (0, -V % _BLOCK))).reshape(B, -1, _BLOCK)
    sums = blocks.sum(axis=-1)
    block, before = _first_above(sums, uniform * sums.sum(axis=-1))
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place, _ = _first_above(inside, uniform * sums.sum(axis=-1) - before)
    return (block * _BLOCK + place).astype(jnp.int32)


def _first_above(weights: Array, goal: Array) -> tuple[Array, Array]:
    """The place where the running sum first exceeds `goal`, and the sum before it. If rounding lets
    it exceed nowhere, the last place with any weight."""
    running = jnp.cumsum(weights, axis=-1)
    last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    above = (running > goal[:, None]) & (weights > 0)
    place = jnp.where(above.any(axis=-1), above.argmax(axis=-1), last)
    return place, _at(running, place) - _at(weights, place)


def keep_largest(weights: Array, enough: Callable[[Array], Array]) -> Array:
    """Keeps the fewest largest weights that are `enough`. The smallest weight to keep is found by
    bisection over the bits of a float, which have the order of the floats, so 31 passes find it
    exactly."""
    bits = jax.lax.bitcast_convert_type(weights, jnp.int32)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # keeping `>= low` is enough, keeping `>= high` is not
        middle = low + (high - low) // 2
        holds = enough(jnp.where(bits >= middle[:, None], weights, 0.0))
        return jnp.where(holds, middle, low), jnp.where(holds, high, middle)

    start = jnp.zeros(len(weights), jnp.int32), bits.max(axis=-1) + 1
    least, _ = jax.lax.fori_loop(0, 31, halve, start)
    return jnp.where(bits >= least[:, None], weights, 0.0)


def _at(values: Array, index: Array) -> Array:
    return jnp.take_along_axis(values, index[:, None], axis=-1)[:, 0]
