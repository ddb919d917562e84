"""Rank correlations over the arms of a comparison: does a measure of boxes order arms as their
accuracy does?

Spearman's coefficient is the correlation of ranks; equal values share the mean of theirs. With few
arms no normal approximation holds, so `p` is exact: the share of all orders of the arms whose
coefficient lies as far from 0 or farther. Beyond `MOST` arms it is not computed. Each seed's
coefficient is given beside that of the arms' values over all seeds, if all arms have as many seeds.

`TOGETHER` are two measures whose ranks predict the accuracy's in one linear model: the multiple
correlation is between 0 and 1, and never below that of either alone. Its `p` is as exact.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lfpc_jax.evaluation.arms import ACCURACY, Comparison

MOST = 8
LEAST = 3
_ROUNDING = 1e-9
RANKED = ("iou", "overlap", "full", "area")
"""The measures whose ranks are compared with those of the accuracy."""
TOGETHER = ("overlap", "area")


@dataclass(frozen=True)
class Correlation:
    """A coefficient over `arms` arms, its exact two-sided p-value, and each seed's coefficient. It
    is None where all values are equal."""

    value: float | None
    p: float | None
    arms: int
    seeds: tuple[float | None, ...]


def correlations(comparison: Comparison, arms: Sequence[str]) -> dict[str, Correlation]:
    """How each measure of boxes goes with the accuracy, over the arms that show boxes. Empty if
    these are fewer than `LEAST`, or no arm is a target model's."""
    shown = [arm for arm in arms if comparison.shows_boxes(arm)]
    found = {}
    for measures in (*((measure,) for measure in RANKED), TOGETHER):
        rows = [
            row
            for arm in shown
            if None not in (row := [comparison.measured(arm, m) for m in (*measures, ACCURACY)])
        ]
        if len(rows) < LEAST:
            continue
        columns = [*zip(*rows)]
        values = [[each.estimate.value for each in column if each] for column in columns]
        counts = {len(each.seeds) for row in rows for each in row if each}
        seeds = range(counts.pop()) if len(counts) == 1 else ()
        of_seeds = (
            [[each.seeds[n] for each in column if each] for column in columns] for n in seeds
        )
        value_of, p_of = (spearman, exact_p) if len(measures) == 1 else (multiple, multiple_p)
        found[" and ".join(measures)] = Correlation(
            value_of(*values), p_of(*values), len(rows), tuple(value_of(*seed) for seed in of_seeds)
        )
    return found


def multiple(*values: Sequence[float]) -> float | None:
    """The multiple correlation of the last values' ranks with those of the others; None where the
    last are all equal, or the others."""
    *plane, ranks = _centred(values)
    basis = _basis(plane)
    length = float(ranks @ ranks)
    if not length or not len(basis):
        return None
    return math.sqrt(min(1.0, float(((basis @ ranks) ** 2).sum()) / length))


def multiple_p(*values: Sequence[float]) -> float | None:
    """The share of all orders of the last values whose multiple correlation is as high or
    higher."""
    if multiple(*values) is None or len(values[0]) > MOST:
        return None
    *plane, ranks = _centred(values)
    orders = np.array(list(itertools.permutations(ranks)))
    explained = ((orders @ _basis(plane).T) ** 2).sum(1)
    return float((explained >= explained[0] - _ROUNDING).mean())


def _centred(values: Sequence[Sequence[float]]) -> list[np.ndarray]:
    return [(ranks := _ranks(of_measure)) - ranks.mean() for of_measure in values]


def _basis(plane: Sequence[np.ndarray]) -> np.ndarray:
    """Orthonormal rows that span the given ones."""
    _, scales, rows = np.linalg.svd(np.array(plane), full_matrices=False)
    return rows[scales > _ROUNDING]


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The correlation of the ranks; None where one side's are all equal."""
    ranks = np.array([_ranks(first), _ranks(second)])
    apart = ranks - ranks.mean(1, keepdims=True)
    lengths = np.sqrt((apart**2).sum(1))
    return float(apart[0] @ apart[1] / lengths.prod()) if lengths.all() else None


def exact_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The share of all orders of `second` whose coefficient is as far from 0 or farther."""
    value = spearman(first, second)
    if value is None or len(first) > MOST:
        return None
    ranks, orders = _ranks(first), np.array(list(itertools.permutations(_ranks(second))))
    apart = np.abs((orders - orders[0].mean()) @ (ranks - ranks.mean()))
    return float((apart >= apart[0] - _ROUNDING).mean())


def _ranks(values: Sequence[float]) -> np.ndarray:
    """From 1; equal values share the mean of their ranks."""
    array = np.asarray(values, float)
    assert not math.isnan(array.sum()), values
    below = (array[:, None] > array).sum(1)
    alike = (array[:, None] == array).sum(1)
    return below + (alike + 1) / 2
