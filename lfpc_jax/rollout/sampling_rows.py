"""The same draws as `sampling.sample`, where every row has settings of its own.

Settings are data here, so that a server compiles nothing when a client asks with another
temperature. Rows are drawn as `sample` draws them; only a division by a temperature that XLA knows
may round differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from lfpc_jax.arrays import Array
from lfpc_jax.model.logprobs import NEVER
from lfpc_jax.rollout.sampling import Sampling, draw, keep_largest


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RowSampling:
    """`Sampling` for each of R rows."""

    temperature: Array  # float32 [R]
    top_k: Array  # int32 [R]
    top_p: Array  # float32 [R]

    @classmethod
    def of(cls, rows: Sequence[Sampling]) -> "RowSampling":
        return cls(
            np.array([row.temperature for row in rows], np.float32),
            np.array([row.top_k for row in rows], np.int32),
            np.array([row.top_p for row in rows], np.float32),
        )


def sample_rows(
    logits: Float[Array, "B V"],
    uniform: Float[Array, "B"],
    *,
    allowed: Bool[Array, "V"],
    sampling: RowSampling,
) -> tuple[Int[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """What `sample` returns, row by row."""
    greedy = sampling.temperature == 0
    scaled = logits.astype(jnp.float32) / jnp.where(greedy, 1.0, sampling.temperature)[:, None]
    policy = jax.nn.log_softmax(jnp.where(allowed, scaled, NEVER))
    weights = jnp.exp(policy - policy.max(axis=-1, keepdims=True))
    weights = jnp.where(allowed, weights, 0.0)
    truncates = ~greedy & ((sampling.top_k > 0) | (sampling.top_p < 1))
    weights = jax.lax.cond(
        truncates.any(), lambda all_: _keep_likely(all_, sampling), lambda all_: all_, weights
    )
    likeliest = policy.argmax(axis=-1).astype(jnp.int32)
    token = jnp.where(greedy, likeliest, draw(weights, uniform))
    at = lambda values: jnp.take_along_axis(values, token[:, None], axis=-1)[:, 0]  # noqa: E731
    of_policy = at(policy)
    truncated = jnp.log(at(weights)) - jnp.log(weights.sum(axis=-1))
    logprob = jnp.where(greedy, 0.0, jnp.where(truncates, truncated, of_policy))
    return token, logprob, of_policy


def _keep_likely(weights: Array, sampling: RowSampling) -> Array:
    """`sampling.keep_likely`, where top-k 0 and top-p 1 leave a row as it is."""
    top_k, top_p = sampling.top_k, sampling.top_p
    kept = keep_largest(weights, lambda some: (some > 0).sum(axis=-1) >= top_k)
    weights = jnp.where((top_k > 0)[:, None], kept, weights)
    mass = top_p * weights.sum(axis=-1)
    kept = keep_largest(weights, lambda some: some.sum(axis=-1) >= mass)
    return jnp.where((top_p < 1)[:, None], kept, weights)
