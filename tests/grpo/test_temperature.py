"""What updates do with tokens drawn at a temperature: the policy's own gradient, without a drift.

Everything is enumerated: a prefix, each token that may follow it, and how often it is drawn.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.grpo.objective import Objective, loss_of
from lfpc_jax.model import config
from lfpc_jax.model.logprobs import token_logprobs, token_logprobs_and_entropy
from lfpc_jax.rollout.sampling import Sampling, logprobs
from lfpc_jax.trajectory import Batch, Tokens

pytestmark = pytest.mark.compiles

LOGITS = np.array([1.3, 9.0, -0.4, 0.2, 0.9, -2.0], np.float32)
ALLOWED = np.arange(6) != 1
CFG = config.published("7b", dtype="float32", kernel="xla")
CFG = replace(CFG, text=replace(CFG.text, vocab=6))


def expected_gradient(logits, advantages, drawn, *, allowed=None, temperature, objective=None):
    """Of the surrogate by the logits: each token weighs what it is drawn with and has an advantage.
    The ratio is to what the trainer held before, as with `update.old trainer`."""
    V = len(logits)
    allowed = jnp.ones(V, bool) if allowed is None else jnp.asarray(allowed)
    cfg = replace(CFG, text=replace(CFG.text, vocab=V))
    tokens = jnp.arange(V)[:, None]
    many = jnp.broadcast_to(logits, (V, V))
    drawn_logprobs, _ = logprobs(many, tokens[:, 0], allowed=allowed, sampling=drawn)
    weights = jnp.exp(drawn_logprobs)[:, None]
    advantages = jnp.broadcast_to(jnp.asarray(advantages), V)[:, None]
    batch = Batch(Tokens(*(None,) * 4), None, weights, advantages, drawn_logprobs[:, None])

    def loss(logits):
        hidden = jnp.broadcast_to(logits, (V, 1, V))  # the vocabulary's weights are the identity
        found = token_logprobs(
            {"unembed": jnp.eye(V)}, hidden, tokens, cfg=cfg, allowed=allowed,
            temperature=temperature,
        )  # fmt: skip
        return loss_of(found, None, batch, objective or Objective())[0]

    return -np.asarray(jax.grad(loss)(jnp.asarray(logits)))


@pytest.mark.parametrize("temperature", [0.5, 0.7, 1.0, 1.5])
def test_a_prefix_with_a_mean_advantage_does_not_drift(temperature):
    """Of two beginnings, one does better than their group and one worse, whatever follows: so what
    follows must not change, though advantages are 0 in the mean over the group alone."""
    for mean in (1.0, -1.0):
        found = expected_gradient(
            LOGITS, mean, Sampling(temperature), allowed=ALLOWED, temperature=temperature
        )
        np.testing.assert_allclose(found, 0, atol=1e-6)


def test_it_would_with_log_probabilities_of_another_temperature():
    """Drawn from p_0.7 and learned from at 1, the mean of e_a - p_1 is p_0.7 - p_1."""
    found = expected_gradient(LOGITS, 1.0, Sampling(0.7), allowed=ALLOWED, temperature=1.0)
    p = [np.where(ALLOWED, np.exp(LOGITS / T), 0) for T in (0.7, 1.0)]
    drift = p[0] / p[0].sum() - p[1] / p[1].sum()
    assert drift.max() > 0.08
    np.testing.assert_allclose(found, drift, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_gradient_is_that_of_the_policys_reward(temperature):
    """d/dlogits of sum_a p_T(a) A(a), by torch's autograd in float64."""
    advantages = np.array([0.5, 0.0, -1.0, 0.2, 1.1, -0.3], np.float32)
    found = expected_gradient(
        LOGITS, advantages, Sampling(temperature), allowed=ALLOWED, temperature=temperature
    )
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    scaled = (logits / temperature).masked_fill(~torch.tensor(ALLOWED), -torch.inf)
    (scaled.softmax(-1) * torch.tensor(advantages)).sum().backward()
    np.testing.assert_allclose(found, logits.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_tokens_that_are_never_drawn_leave_a_drift_that_no_cap_corrects():
    """Of tokens with 0.5, 0.3 and 0.2 the first two are drawn. Each draw adds e_a - p, in the mean
    (0.625, 0.375, 0) - p; weighed by p over what it was drawn with, 0.8 times as much."""
    logits, how = np.log(np.array([0.5, 0.3, 0.2], np.float32)), Sampling(top_k=2)
    drift = np.array([0.125, 0.075, -0.2])
    for objective, share in ((Objective(), 1), (Objective(importance_cap=2.0), 0.8)):
        found = expected_gradient(logits, 1.0, how, temperature=1.0, objective=objective)
        np.testing.assert_allclose(found, share * drift, atol=1e-6)


def test_sampler_and_trainer_measure_the_same_distribution_and_torch_too():
    """So what lies between them in training, `sampler_apart`, is rounding alone."""
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((2, 7, 6))).astype(np.float32)
    targets = rng.choice(np.flatnonzero(ALLOWED), (2, 7)).astype(np.int32)
    trainer, entropy = token_logprobs_and_entropy(
        {"unembed": jnp.eye(6)}, jnp.asarray(logits), jnp.asarray(targets), cfg=CFG,
        allowed=jnp.asarray(ALLOWED), temperature=0.7, block=3,
    )  # fmt: skip
    sampler, policy = logprobs(
        jnp.asarray(logits.reshape(-1, 6)), jnp.asarray(targets.reshape(-1)),
        allowed=jnp.asarray(ALLOWED), sampling=Sampling(0.7),
    )  # fmt: skip
    np.testing.assert_array_equal(sampler, policy)
    np.testing.assert_allclose(sampler, trainer.reshape(-1), atol=2e-6)
    scaled = torch.tensor(logits.reshape(-1, 6), dtype=torch.float64) / 0.7
    scaled = scaled.masked_fill(~torch.tensor(ALLOWED), -1e30)
    cross_entropy = torch.nn.functional.cross_entropy(
        scaled, torch.tensor(targets.reshape(-1)).long(), reduction="none"
    )
    np.testing.assert_allclose(trainer.reshape(-1), -cross_entropy, rtol=1e-5, atol=1e-6)
    spread = torch.distributions.Categorical(logits=scaled).entropy()
    np.testing.assert_allclose(entropy.reshape(-1), spread, rtol=1e-4, atol=1e-5)
