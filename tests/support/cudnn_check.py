"""Holds attention by cuDNN against float64, in bfloat16 and through the function that models call.
As a program it does so on the GPU that is there."""

import jax
import jax.numpy as jnp
import numpy as np

from lfpc_jax.model.attention import attention
from support.exact_attention import exact, exact_gradients, random, visible

TEXT = np.repeat([[1, 2, 3, 4, 5, 6, 0], [1, 2, 2, 3, 4, 4, 5]], [150, 20, 100, 1, 45, 2, 2], 1)
PREFIX = np.repeat([[1, 1, 1, 4, 4, 4, 0], [1, 1, 1, 3, 3, 3, 3]], [150, 20, 100, 1, 45, 2, 2], 1)
PICTURES = np.where(np.arange(320) % 7 < 5, TEXT, 0)
CASES = {
    "text": (True, TEXT, PREFIX, (4, 2, 128)),
    "text without prefixes": (True, TEXT, None, (4, 4, 64)),
    "pictures": (False, PICTURES, None, (2, 2, 80)),
}
"""Causal, segments, prefix, and heads of queries and keys and their size. Rows have long and short
segments, and padding at their end or among the patches of a picture."""

LIMIT = 0.01
"""Rounding to bfloat16 gives errors of half a per cent."""


def error(causal, segments, prefix, heads):
    """The error of values and of the gradients of queries, keys and values: its root mean square
    over theirs."""
    B, T = segments.shape
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in random(0, B, T, *heads))
    real = segments > 0
    weigh = np.random.default_rng(1).normal(size=q.shape) * real[..., None, None]
    weigh = jnp.asarray(weigh, jnp.bfloat16)
    masks = {"segments": segments, "prefix": prefix}
    masks = {name: x if x is None else jnp.asarray(x, jnp.int32) for name, x in masks.items()}

    def run(q, k, v):
        out = attention(q, k, v, causal=causal, kernel="cudnn", **masks)
        return (out * weigh).astype(jnp.float32).sum(), out

    program = jax.jit(jax.grad(run, (0, 1, 2), has_aux=True))
    assert "attention_cudnn" in program.lower(q, k, v).as_text(debug_info=True)
    gradients, out = program(q, k, v)
    seen = visible(segments, prefix) if causal else segments[:, :, None] == segments[:, None]
    given = (np.float64(x) for x in (q, k, v))
    q, k, v = given
    expected = exact(q, k, v, seen), *exact_gradients(q, k, v, seen, np.float64(weigh))
    found = np.where(real[..., None, None], np.float64(out), expected[0]), *gradients
    return [
        np.sqrt(((np.float64(ours) - theirs) ** 2).mean() / (theirs**2).mean())
        for ours, theirs in zip(found, expected)
    ]


if __name__ == "__main__":
    for name, case in CASES.items():
        errors = error(*case)
        print(name, *(f"{each:.4f}" for each in errors))
        assert max(errors) < LIMIT, (name, errors)
