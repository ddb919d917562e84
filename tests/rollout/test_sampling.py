"""Sampling against distributions worked out in NumPy's float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfpc_jax.rollout.sampling import Sampling, draw, sample

pytestmark = pytest.mark.compiles

ALL = np.ones(1000, bool)


def expected(logits, sampling, allowed):
    """The distribution by sorting, in float64."""
    logits = np.where(allowed, np.asarray(logits, np.float64), -np.inf) / sampling.temperature
    p = np.exp(logits - logits.max())
    p /= p.sum()
    if sampling.top_k:
        p = np.where(p >= np.sort(p)[-min(sampling.top_k, len(p))], p, 0)
        p /= p.sum()
    if sampling.top_p < 1:
        ranked = np.sort(p)[::-1]
        last = ranked[np.searchsorted(np.cumsum(ranked), sampling.top_p * (1 - 1e-7))]
        p = np.where(p >= last, p, 0)
    return p / p.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.7),
        Sampling(top_k=5),
        Sampling(top_p=0.9),
        Sampling(temperature=1.3, top_k=50, top_p=0.8),
    ],
)
@pytest.mark.parametrize("vocabulary", [7, 256, pytest.param(1000, marks=pytest.mark.slow)])
def test_frequencies_and_log_probabilities(sampling, vocabulary):
    """50,000 evenly spread uniforms: each token is drawn as often as its probability says."""
    rng = np.random.default_rng(vocabulary)
    logits = (3 * rng.normal(size=vocabulary)).astype(np.float32)
    allowed = rng.random(vocabulary) < 0.8
    n = 50_000
    uniform = (np.arange(n) + 0.5) / n
    run = jax.jit(
        lambda u: sample(
            jnp.broadcast_to(jnp.asarray(logits), (2000, vocabulary)),
            u,
            allowed=jnp.asarray(allowed),
            sampling=sampling,
        )
    )
    parts = [run(jnp.asarray(u, jnp.float32)) for u in uniform.reshape(-1, 2000)]
    token, chosen, policy = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in range(3))
    p = expected(logits, sampling, allowed)
    counts = np.bincount(token, minlength=vocabulary) / n
    assert np.abs(counts - p).max() < 3e-5
    assert not counts[p == 0].any()
    np.testing.assert_allclose(chosen, np.log(p[token]), atol=2e-5)
    own = expected(logits, Sampling(sampling.temperature), allowed)
    np.testing.assert_allclose(policy, np.log(own[token]), atol=2e-5)
    if not sampling.truncates:
        np.testing.assert_array_equal(chosen, policy)


def test_greedy_takes_the_most_likely_allowed_token():
    logits = jnp.asarray([[0.0, 5.0, 9.0, 1.0]])
    allowed = jnp.asarray([True, True, False, True])
    token, chosen, policy = sample(
        logits, jnp.zeros(1), allowed=allowed, sampling=Sampling(temperature=0.0)
    )
    assert (int(token[0]), float(chosen[0])) == (1, 0.0)
    assert float(policy[0]) == pytest.approx(5 - np.log(np.exp([0, 5, 1]).sum()), abs=1e-6)


def test_a_banned_token_is_never_drawn_however_much_it_is_wanted():
    logits = jnp.zeros((512, 300)).at[:, 77].set(1e4)
    allowed = jnp.ones(300, bool).at[77].set(False)
    uniform = jnp.linspace(0, 1, 512)
    token, chosen, policy = sample(logits, uniform, allowed=allowed, sampling=Sampling())
    assert not (token == 77).any()
    np.testing.assert_allclose(chosen, -np.log(299), atol=1e-5)
    np.testing.assert_allclose(policy, -np.log(299), atol=1e-5)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.0), Sampling(0.7), Sampling(top_k=5, top_p=0.9)]
)
def test_logits_that_are_no_numbers_give_a_policy_that_is_none_in_their_row_alone(sampling):
    """What the engine looks at. A banned token's do not matter: the ban is put over them."""
    allowed = jnp.ones(300, bool).at[77].set(False)
    logits = jnp.zeros((5, 300)).at[0, 3].set(jnp.nan).at[1, 290].set(jnp.inf)
    logits = logits.at[2].set(jnp.nan).at[3, 77].set(jnp.nan)
    _, _, policy = sample(logits, jnp.full(5, 0.5), allowed=allowed, sampling=sampling)
    assert np.isfinite(policy).tolist() == [False, False, False, True, True]


def test_a_row_does_not_depend_on_its_neighbours_or_place():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(8, 1000)), jnp.float32)
    uniform = jnp.asarray(rng.random(8), jnp.float32)
    sampling = Sampling(top_p=0.9, top_k=100)
    drawn = jax.jit(partial(sample, allowed=jnp.asarray(ALL), sampling=sampling))
    together = drawn(logits, uniform)
    order = rng.permutation(8)
    mixed = drawn(logits[order], uniform[order])
    for row in range(8):
        one = slice(row, row + 1)
        alone = drawn(logits[one], uniform[one])
        at = int(np.flatnonzero(order == row)[0])
        assert together[0][row] == alone[0][0] == mixed[0][at]
        for a, b, c in zip(together[1:], alone[1:], mixed[1:]):  # another program, other roundings
            np.testing.assert_allclose([b[0], c[at]], a[row], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-37, 1e-12, 0.3, 1.0, 3.0]), min_size=300, max_size=300),
    st.sampled_from([0.0, 1e-9, 0.5, 1 - 2**-24, 1.0]),
)
def test_no_uniform_draws_a_weight_of_zero(weights, uniform):
    if not any(weights):
        return
    token = jax.jit(draw)(np.array([weights], np.float32), np.array([uniform], np.float32))
    assert weights[int(token[0])] > 0


def test_settings_that_mean_nothing_are_refused():
    endless = [{"temperature": number} for number in (-1.0, np.nan, np.inf)]
    for wrong in (*endless, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": np.nan}):
        with pytest.raises(ValueError, match="need a finite temperature >= 0"):
            Sampling(**wrong)
