"""95% intervals for a share, and for the change of a share.

Closed forms, with nothing drawn, so that they are the same everywhere and never claim certainty: a
bootstrap over samples that all agree gives an interval of no width.

- `share`: Wilson's score interval.
- `mean`: the mean of scores that lie between 0 and 1, by Agresti and Coull's interval.
- `change`: paired differences by Bonett and Price's adjusted interval (Adjusted Wald confidence
  interval for a difference of binomial proportions based on paired data, Journal of Educational and
  Behavioral Statistics 37, 2012), which adds two samples, one that changed for better and one for
  worse. For differences of -1, 0 and 1 it is theirs exactly. It needs only the mean and the square
  of differences, so it also serves means over a sample's own rows, and differences of another
  range: the two added samples lie at the ends of what a difference can be, wherever those are.
- `crossed`: a mean over seeds and samples of which both are drawn, by the analysis of variance with
  two crossed random factors, and Satterthwaite's degrees of freedom.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit

Z = 1.959963984540054
"""The normal distribution's 97.5% point."""


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, and the number of samples."""

    value: float
    low: float
    high: float
    samples: int


def share(value: float, samples: int) -> Estimate | None:
    """A mean of values in 0..1 over independent samples; None without any.

    Of all such values with that mean, zeros and ones vary most: for others the interval is wide.
    """
    if samples == 0:
        return None
    assert -1e-9 <= value <= 1 + 1e-9, value
    square = Z**2 / samples
    centre = (value + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(value * (1 - value) / samples + square / (4 * samples))
    # The value lies within but for rounding, which must not show at 0 and 1.
    low, high = min(centre - half, value), max(centre + half, value)
    return Estimate(value, max(0.0, low), min(1.0, high), samples)


def mean(values: Sequence[float]) -> Estimate | None:
    """The mean of scores in 0..1 over independent samples; None without any.

    Agresti and Coull's interval: of the scores with Z^2 / 2 zeros and as many ones added, it is the
    normal one. For zeros and ones it is theirs, and its centre is Wilson's.
    """
    n = len(values)
    if n == 0:
        return None
    assert -1e-9 <= min(values) <= max(values) <= 1 + 1e-9, values
    total, squares = math.fsum(values), math.fsum(value * value for value in values)
    centre = (total + Z**2 / 2) / (n + Z**2)
    spread = max(0.0, (squares + Z**2 / 2) / (n + Z**2) - centre**2)
    half = Z * math.sqrt(spread / (n + Z**2))
    value = total / n
    low, high = min(centre - half, value), max(centre + half, value)
    return Estimate(value, max(0.0, low), min(1.0, high), n)


def change(
    differences: Sequence[float], ends: tuple[float, float] = (-1.0, 1.0)
) -> Estimate | None:
    """The mean of paired differences, each between the `ends`; None without any."""
    n = len(differences)
    if n == 0:
        return None
    low, high = ends
    assert low - 1e-9 <= min(differences) <= max(differences) <= high + 1e-9, (ends, differences)
    total = math.fsum(differences)
    squares = math.fsum(d * d for d in differences)
    centre = (total + (low + high)) / (n + 2)
    spread = (squares + (low * low + high * high)) / (n + 2) - centre**2
    half = Z * math.sqrt(spread / (n + 2))
    return Estimate(total / n, max(low, centre - half), min(high, centre + half), n)


def crossed(
    values: Float[np.ndarray, "seeds samples"], ends: tuple[float, float] = (-1.0, 1.0)
) -> Estimate | None:
    """The mean of values between the `ends`, as an estimate for other seeds and other samples; None
    with fewer than two of either, or if all values are equal, where their variance is unknown.

    A value is the mean plus an effect of its seed, one of its sample and one of both. The mean's
    variance is (MS_seeds + MS_samples - MS_both) / (seeds x samples), and at least what seeds or
    samples alone would give: an effect whose estimate is negative counts as 0. With few seeds that
    disagree, Student's t makes the interval wide."""
    seeds, samples = values.shape
    if min(seeds, samples) < 2:
        return None
    low, high = ends
    assert low - 1e-9 <= values.min() <= values.max() <= high + 1e-9, (ends, values)
    value = float(values.mean())
    by_seed, by_sample = (values.mean(axis=axis) - value for axis in (1, 0))
    rest = values - value - by_seed[:, None] - by_sample
    freedom = seeds - 1, samples - 1, (seeds - 1) * (samples - 1)
    squares = (
        samples * float((by_seed**2).sum()) / freedom[0],
        seeds * float((by_sample**2).sum()) / freedom[1],
        float((rest**2).sum()) / freedom[2],
    )
    terms = [(squares[0], freedom[0])], [(squares[1], freedom[1])], [*zip(squares, freedom)]
    sums = [sum(square for square, _ in term) for term in terms[:2]]
    sums.append(squares[0] + squares[1] - squares[2])
    largest = int(np.argmax(sums))
    uncertain = sum(square**2 / degrees for square, degrees in terms[largest])
    if not uncertain:
        return None
    t = float(stdtrit(sums[largest] ** 2 / uncertain, 0.975))
    half = t * math.sqrt(sums[largest] / (seeds * samples))
    return Estimate(value, max(low, value - half), min(high, value + half), samples)
