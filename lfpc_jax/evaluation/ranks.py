"""Rank correlations over the arms of a comparison: does a measure of boxes order arms as their
accuracy does?

Spearman's coefficient is the correlation of ranks; equal values share the mean of theirs. With few
arms no normal approximation holds, so `p` is exact: the share of all orders of the arms whose
coefficient lies as far from 0 or farther. Beyond `MOST` arms it is not computed. Each seed's
coefficient is given beside that of the arms' values over all seeds, if all arms have as many seeds.
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
    for measure in RANKED:
        pairs = [
            (of_boxes, accuracy)
            for arm in shown
            if (of_boxes := comparison.measured(arm, measure)) is not None
            and (accuracy := comparison.measured(arm, ACCURACY)) is not None
        ]
        if len(pairs) < LEAST:
            continue
        first, second = ([each.estimate.value for each in side] for side in zip(*pairs))
        counts = {len(each.seeds) for pair in pairs for each in pair}
        seeds = range(counts.pop()) if len(counts) == 1 else ()
        found[measure] = Correlation(
            spearman(first, second),
            exact_p(first, second),
            len(pairs),
            tuple(spearman(*zip(*((a.seeds[n], b.seeds[n]) for a, b in pairs))) for n in seeds),
        )
    return found


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
