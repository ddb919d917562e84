"""Learning rates worked by hand, and updates against AdamW written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lfpc_jax.grpo.optimizer import OptimizerSettings, make_optimizer, schedule

pytestmark = pytest.mark.compiles

HALF = 0.5**0.5


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, (8, 8, 8)),
        ({"warmup": 1}, (8, 8, 8)),
        ({"warmup": 4}, (2, 4, 6, 8, 8, 8)),
        ({"schedule": "linear"}, (8, 6, 4, 2)),
        ({"schedule": "linear", "warmup": 2, "final": 0.5}, (4, 8, 8, 7, 6, 5)),
        ({"schedule": "cosine"}, (8, 4 + 4 * HALF, 4, 4 - 4 * HALF)),
        (
            {"schedule": "cosine", "warmup": 2, "final": 0.25},
            (4, 8, 8, 5 + 3 * HALF, 5, 5 - 3 * HALF),
        ),
    ],
)
def test_rates_by_hand(settings, rates):
    found = schedule(OptimizerSettings(learning_rate=8.0, **settings), len(rates))
    np.testing.assert_allclose([float(found(n)) for n in range(len(rates))], rates, rtol=1e-6)


def test_updates_equal_adamws_behind_clipping():
    """Gradients of norm 13 and 26, clipped to 0.13, and between them one under it, left alone."""
    settings = OptimizerSettings(
        learning_rate=0.5, schedule="linear", b1=0.8, b2=0.9, eps=0.03, weight_decay=0.1,
        clip_norm=0.13,
    )  # fmt: skip
    optimizer = make_optimizer(settings, 4)
    update = jax.jit(optimizer.update)
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]])}
    state = optimizer.init(params)
    p, m, v = np.array([1.0, -2.0, 3.0]), np.zeros(3), np.zeros(3)
    gradient = np.array([3.0, -4.0, 12.0])
    scales, rates, kept = (1, 0.005, 2), (0.5, 0.375, 0.25), (0.01, 1, 0.005)
    for t, (scale, rate, share) in enumerate(zip(scales, rates, kept), start=1):
        a, b, c = scale * gradient
        given = {"a": jnp.array([a, b]), "b": jnp.array([[c]])}
        changes, state = update(given, state, params)
        params = optax.apply_updates(params, changes)
        g = share * scale * gradient
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        step = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 0.03)
        p = p - rate * (step + 0.1 * p)
        found = np.concatenate([x.ravel() for x in jax.tree.leaves(params)])
        np.testing.assert_allclose(found, p, rtol=1e-6)


def test_rates_are_finite():
    for wrong in ({"learning_rate": np.inf}, {"learning_rate": np.nan}, {"weight_decay": np.nan}):
        with pytest.raises(ValueError, match="a rate is finite"):
            OptimizerSettings(**wrong)
