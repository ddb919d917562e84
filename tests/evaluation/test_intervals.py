"""Intervals over seeds and samples: a worked example, limits, and coverage."""

import numpy as np
import pytest
from scipy import stats

from lfpc_jax.evaluation.intervals import crossed


def test_worked_example():
    """Seeds' means 0.1 and 0.3, samples' means 0, 0.2 and 0.4: MS_seeds = 3 x 0.02 / 1 = 0.06,
    MS_samples = 2 x 0.08 / 2 = 0.08 and nothing is left for both. The variance is 0.14 / 6, and
    Satterthwaite gives 0.14^2 / (0.06^2 / 1 + 0.08^2 / 2) = 2.882 degrees of freedom."""
    values = np.array([[-0.1, 0.1, 0.3], [0.1, 0.3, 0.5]])
    estimate = crossed(values)
    half = stats.t.ppf(0.975, 0.14**2 / (0.06**2 + 0.08**2 / 2)) * (0.14 / 6) ** 0.5
    assert estimate.value == pytest.approx(0.2)
    assert estimate.low == pytest.approx(0.2 - half)
    assert estimate.high == pytest.approx(0.2 + half)
    assert estimate.samples == 3


def test_seeds_that_agree_leave_the_interval_over_samples():
    """Then it is Student's interval of the samples' means."""
    of_samples = np.array([0.0, 0.1, 0.1, 0.4, -0.2, 0.3])
    estimate = crossed(np.stack([of_samples, of_samples, of_samples]))
    wanted = stats.t.interval(
        0.95, 5, loc=of_samples.mean(), scale=of_samples.std(ddof=1) / len(of_samples) ** 0.5
    )
    np.testing.assert_allclose((estimate.low, estimate.high), wanted)


def test_seeds_that_disagree_make_it_wide():
    rng = np.random.default_rng(0)
    values = 0.1 * rng.standard_normal((3, 100))
    agreed = crossed(values)
    apart = crossed(values + np.array([[-0.2], [0.0], [0.2]]))
    assert apart.high - apart.low > 5 * (agreed.high - agreed.low)


def test_the_interval_keeps_to_the_ends_and_needs_two_of_each():
    values = np.array([[0.9, 1.0], [0.2, 1.0]])
    estimate = crossed(values, ends=(0.0, 1.0))
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert crossed(np.ones((1, 5))) is None
    assert crossed(np.ones((5, 1))) is None
    assert crossed(np.ones((2, 5))) is None, "no interval without a width"


@pytest.mark.parametrize("spread", [(0.0, 0.1, 0.3), (0.02, 0.1, 0.3), (0.1, 0.0, 0.05)])
def test_it_covers_the_mean_of_other_seeds_and_samples(spread):
    rng = np.random.default_rng(1)
    shapes = (3, 1), (1, 100), (3, 100)
    covered = []
    for _ in range(400):
        effects = [s * rng.standard_normal(shape) for s, shape in zip(spread, shapes)]
        estimate = crossed(np.clip(0.1 + sum(effects), -1, 1))
        covered.append(estimate.low <= 0.1 <= estimate.high)
    assert np.mean(covered) > 0.91
