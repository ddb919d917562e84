"""Advantages, the loss and its gradients against the published formulas in float64, and by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from lfpc_jax.grpo.advantage import group_advantages
from lfpc_jax.grpo.objective import Objective, loss_of
from lfpc_jax.trajectory import Batch, Tokens

pytestmark = pytest.mark.compiles


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ((1.0, 0.0), (1.0, -1.0)),
        ((2.0, 2.0, 2.0), (0.0, 0.0, 0.0)),
        ((0.1 + 0.2, 0.3), (0.0, 0.0)),  # equal but for rounding
        ((0.0, 0.0, 0.0, 2.0), (-1 / 3**0.5,) * 3 + (3**0.5,)),  # mean 1/2, deviation sqrt(3)/2
        ((1.0, None, 0.0), (1.0, np.nan, -1.0)),
        ((None, 1.0), (np.nan, 0.0)),
        ((None, None), (np.nan, np.nan)),
    ],
)
def test_advantages_by_hand(rewards, expected):
    np.testing.assert_allclose(group_advantages(rewards), expected, atol=1e-12)


@pytest.mark.parametrize(
    "rewards", [(1.0, 0.0), (2.0, 0.2, -0.2, 2.0), (0.8,) * 15 + (-0.2,), (1.0, None, 0.0, 0.2)]
)
def test_unbiased_advantages_equal_verls(rewards):
    """(r - mean) / (torch.std + 1e-6)."""
    known = torch.tensor([r for r in rewards if r is not None], dtype=torch.float64)
    expected = ((known - known.mean()) / (torch.std(known) + 1e-6)).numpy()
    found = group_advantages(rewards, "unbiased")
    at = np.array([r is not None for r in rewards])
    np.testing.assert_allclose(found[at], expected, rtol=1e-12)
    assert np.isnan(found[~at]).all()
    G = len(known)
    np.testing.assert_allclose(
        found / group_advantages(rewards), np.where(at, ((G - 1) / G) ** 0.5, np.nan), rtol=1e-5
    )


def test_unbiased_advantages_of_equal_rewards_or_one_alone_are_0():
    np.testing.assert_array_equal(group_advantages((0.1 + 0.2, 0.3), "unbiased"), (0, 0))
    np.testing.assert_array_equal(group_advantages((None, 1.0), "unbiased"), (np.nan, 0))


def batch(rng, B=3, T=11, **more) -> tuple[Batch, np.ndarray]:
    empty = Tokens(*(np.zeros(1),) * 4)
    sampled = rng.random((B, T)) < 0.6
    weights = np.where(sampled, rng.random((B, T)), 0)
    weights /= weights.sum()
    logprobs = -2 + rng.standard_normal((B, T))
    near = {name: logprobs + 0.4 * rng.standard_normal((B, T)) for name in ("sampler", "old")}
    advantages = np.broadcast_to(rng.standard_normal((B, 1)), (B, T))
    arrays = {"weights": weights, "advantages": advantages, **near} | more
    arrays = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
    return Batch(empty, None, **arrays), logprobs.astype(np.float32)


def published(logprobs, entropy, b: Batch, how: Objective) -> float:
    """The objective, one token after the other, in float64."""
    total = 0.0
    for at in np.argwhere(b.weights > 0):
        names = ("weights", "advantages", "sampler", "old", "reference")
        w, A, sampler, old, reference = (float(getattr(b, name)[*at]) for name in names)
        logprob = float(logprobs[*at])
        if how.kind == "sft":
            total -= w * logprob
            continue
        ratio = np.exp(logprob - old)
        gain = min(ratio * A, min(max(ratio, 1 - how.clip_low), 1 + how.clip_high) * A)
        if how.dual_clip is not None and A < 0:
            gain = max(gain, how.dual_clip * A)
        if how.importance_cap is not None:
            gain *= min(np.exp(old - sampler), how.importance_cap)
        away = reference - logprob
        kl = np.exp(away) - away - 1
        total -= w * (gain - how.kl * kl + how.entropy * float(entropy[*at]))
    return total


def slopes(function, at: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """By central differences."""
    found = np.zeros(at.shape)
    for place in np.ndindex(at.shape):
        step = np.zeros(at.shape)
        step[place] = h
        found[place] = (function(at + step) - function(at - step)) / (2 * h)
    return found


@pytest.mark.parametrize(
    "how",
    [
        Objective(),
        Objective(clip_high=0.28),
        Objective(clip_low=0.05, clip_high=0.5),
        Objective(dual_clip=1.3),
        Objective(importance_cap=1.2),
        Objective(kl=0.3),
        Objective(entropy=0.7),
        Objective(clip_high=0.28, dual_clip=1.4, importance_cap=1.2, kl=0.3, entropy=0.7),
        Objective(kind="sft"),
    ],
    ids=["symmetric", "asymmetric", "narrow", "dual", "cap", "kl", "entropy", "all", "sft"],
)
def test_loss_and_gradients_are_the_published_ones(how):
    rng = np.random.default_rng(0)
    b, logprobs = batch(rng, B=8, reference=-2 + rng.standard_normal((8, 11)))
    entropy = rng.random(logprobs.shape).astype(np.float32)
    run = jax.value_and_grad(lambda *x: loss_of(*x, b, how)[0], argnums=(0, 1))
    loss, found = run(jnp.asarray(logprobs), jnp.asarray(entropy))
    exact = [x.astype(np.float64) for x in (logprobs, entropy)]
    assert float(loss) == pytest.approx(published(*exact, b, how), rel=1e-5)
    expected = (
        slopes(lambda x: published(x, exact[1], b, how), exact[0]),
        slopes(lambda x: published(exact[0], x, b, how), exact[1]),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def verls(logprobs, b: Batch, how: Objective) -> torch.Tensor:
    """verl's `compute_policy_loss`, as published, with a token's weight in place of its mean."""
    A, old, weights = (
        torch.tensor(x, dtype=torch.float64) for x in (b.advantages, b.old, b.weights)
    )
    ratio = torch.exp(torch.clamp(logprobs - old, min=-20.0, max=20.0))
    losses_1 = -A * ratio
    losses_2 = -A * torch.clamp(ratio, 1 - how.clip_low, 1 + how.clip_high)
    clip_1 = torch.maximum(losses_1, losses_2)
    losses_3 = -A * how.dual_clip
    clip_2 = torch.min(losses_3, clip_1)
    return (weights * torch.where(A < 0, clip_2, clip_1)).sum()


@pytest.mark.parametrize(
    "how", [Objective(dual_clip=3.0), Objective(clip_high=0.28, dual_clip=2.0)]
)
def test_dual_clip_equals_verls_in_torch(how):
    rng = np.random.default_rng(3)
    b, logprobs = batch(rng, B=8)
    logprobs = logprobs + 2 * rng.standard_normal(logprobs.shape).astype(np.float32)
    theirs = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    expected = verls(theirs, b, how)
    expected.backward()
    run = jax.value_and_grad(lambda x: loss_of(x, None, b, how), has_aux=True)
    (loss, watched), found = run(jnp.asarray(logprobs))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(found, theirs.grad.numpy(), rtol=1e-4, atol=1e-8)
    bounded = (logprobs - b.old > np.log(how.dual_clip)) & (b.advantages < 0)
    share = b.weights[bounded].sum()
    assert share > 0.02
    assert float(watched["clipped_dual"]) == pytest.approx(share, rel=1e-5)


@pytest.mark.parametrize(
    "how", [Objective(), Objective(dual_clip=3.0), Objective(clip_high=np.inf, kl=0.1)]
)
@pytest.mark.parametrize("change", [25.0, 200.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_an_overflowing_ratio_costs_its_own_gradient_alone(how, change, advantage):
    """exp(200) is no float32; and exp(25), squared and summed over a model, no sound norm."""
    b, logprobs = batch(np.random.default_rng(0), reference=np.full((3, 11), -2))
    at = tuple(np.argwhere(b.weights > 0)[3])
    b.advantages[at[0]] = advantage
    moved = logprobs.copy()
    moved[at] = b.old[at] + change
    run = jax.value_and_grad(lambda x: loss_of(x, None, b, how), has_aux=True)
    (loss, watched), found = run(jnp.asarray(moved))
    assert np.isfinite([float(loss), *map(float, watched.values())]).all()
    _, before = run(jnp.asarray(logprobs))
    rest = np.ones(moved.shape, bool)
    rest[at] = False
    np.testing.assert_array_equal(np.asarray(found)[rest], np.asarray(before)[rest])
    away = how.kl * b.weights[at]  # from the reference, far below: 1 - exp(-large)
    assert float(found[at]) == pytest.approx(away, abs=1e-8)
    assert bool(watched["clipped_dual"] > 0) == (advantage < 0)


def test_a_far_reference_and_a_far_sampler_overflow_nothing():
    """By 200 each; the cap is what it says, the KL stays at exp(20) and pulls no more."""
    how = Objective(kl=0.1, importance_cap=2.0)
    b, logprobs = batch(np.random.default_rng(0))
    b = replace(b, old=logprobs, sampler=logprobs - 200, reference=logprobs + 200)
    run = jax.value_and_grad(lambda x: loss_of(x, None, b, how), has_aux=True)
    (loss, watched), found = run(jnp.asarray(logprobs))
    assert np.isfinite([float(loss), *map(float, watched.values())]).all()
    np.testing.assert_allclose(found, -2 * b.weights * b.advantages, rtol=1e-5)
    assert float(watched["reference_kl"]) == pytest.approx(np.exp(20) - 21, rel=1e-5)
    assert float(watched["sampler_apart"]) == pytest.approx(200, rel=1e-5)


def test_kl_and_entropy_are_watched():
    rng = np.random.default_rng(0)
    b, logprobs = batch(rng, reference=-2 + rng.standard_normal((3, 11)))
    entropy = rng.random((3, 11)).astype(np.float32)
    _, watched = loss_of(jnp.asarray(logprobs), jnp.asarray(entropy), b,
                         Objective(kl=0.3, entropy=0.7))  # fmt: skip
    w = b.weights.astype(np.float64)
    away = b.reference.astype(np.float64) - logprobs
    kl = (w * (np.exp(away) - away - 1)).sum()
    assert float(watched["reference_kl"]) == pytest.approx(kl, rel=1e-5)
    assert float(watched["entropy"]) == pytest.approx((w * entropy).sum(), rel=1e-5)


def test_kl_close_to_the_reference_is_not_lost_in_rounding():
    near = np.full((3, 11), -2, np.float32) + np.float32(2**-12)
    arrays = {"old": near, "sampler": near + np.float32(2**-12), "reference": near}
    b, _ = batch(np.random.default_rng(0), **arrays)
    _, watched = loss_of(jnp.full((3, 11), -2.0), None, b, Objective(kl=1.0))
    for name in ("reference_kl", "change_kl", "sampler_kl"):  # exp(d) - d - 1 is d^2 / 2
        assert float(watched[name]) == pytest.approx(2**-25, rel=0.01), name


def test_what_is_watched_by_hand():
    """Three tokens of weights 1/2, 1/4, 1/4 and ratios 2, 1/2, 1 with advantages 1, -1, 1."""
    empty = Tokens(*(np.zeros(1),) * 4)
    f = lambda *x: np.array([x], np.float32)  # noqa: E731
    old = f(-1, -1, -1)
    b = Batch(empty, None, f(0.5, 0.25, 0.25), f(1, -1, 1), old - f(0.1, 0, 0), old=old)
    logprobs = old + np.log(f(2, 0.5, 1))
    loss, watched = loss_of(jnp.asarray(logprobs), None, b, Objective())
    # clipped to 1.2 and 0.8: gains 1.2, -0.8, 1
    assert float(loss) == pytest.approx(-(0.6 - 0.2 + 0.25), rel=1e-6)
    assert float(watched["clipped_high"]) == 0.5
    assert float(watched["clipped_low"]) == 0.25
    assert float(watched["sampler_apart"]) == pytest.approx(0.05, rel=1e-5)
    kl = 0.5 * (2 - 1 - np.log(2)) + 0.25 * (0.5 - 1 - np.log(0.5))
    assert float(watched["change_kl"]) == pytest.approx(kl, rel=1e-5)


def test_without_old_the_policy_itself_is_the_old_one_and_padding_may_hold_anything():
    b, logprobs = batch(np.random.default_rng(1))
    b = Batch(b.tokens, None, b.weights, b.advantages, b.sampler)
    poisoned = np.where(b.weights > 0, logprobs, np.nan).astype(np.float32)
    run = jax.value_and_grad(lambda x: loss_of(x, None, b, Objective()), has_aux=True)
    (loss, watched), found = run(jnp.asarray(poisoned))
    assert float(loss) == pytest.approx(-float((b.weights * b.advantages).sum()), rel=1e-5)
    np.testing.assert_allclose(found, -b.weights * b.advantages, rtol=1e-6)
    assert float(watched["change_kl"]) == 0


@pytest.mark.parametrize(
    "wrong", [{"clip_low": 0.0}, {"clip_high": 0.0}, {"kl": -1.0}, {"importance_cap": 0.5},
              {"dual_clip": 1.0}, {"dual_clip": np.inf}, {"dual_clip": np.nan},
              {"kind": "sft", "kl": 0.1}, {"kind": "sft", "entropy": 0.1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"must lie|must be finite|would shrink|has neither|over 1"
    ):
        Objective(**wrong)
