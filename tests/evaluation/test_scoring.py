"""Scores and intervals against values worked by hand, or published."""

import math

import numpy as np
import pytest

from lfpc_jax.evaluation.benchmark import Benchmark
from lfpc_jax.evaluation.intervals import Z, change, share
from lfpc_jax.evaluation.published import HR_4K, HR_8K, V_STAR, column_of
from lfpc_jax.evaluation.scoring import Outcome, accuracies, accuracy, paired
from lfpc_jax.trajectory import Picture, Record


def hr(sample, cycle, right, category="single"):
    return Outcome(f"{sample}@{cycle}", f"s{sample}", category, str(cycle), right)


def test_hr_bench_is_the_mean_over_cycles_by_hand():
    """Two FSP samples and one FCP. A row is missing in cycle 3, so cycles weigh more than rows.

    cycle   FSP        FCP   all
    0       1, 1       0     2/3
    1       1, 0       1     2/3
    2       0, 0       1     1/3
    3       1, -       1     1
    """
    right = {
        "single": [(1, 1), (1, 0), (0, 0), (1, None)],
        "cross": [(0,), (1,), (1,), (1,)],
    }
    outcomes = [
        hr(f"{category}{sample}", cycle, None if hit is None else float(hit), category)
        for category, cycles in right.items()
        for cycle, hits in enumerate(cycles)
        for sample, hit in enumerate(hits)
    ]
    found = accuracies(outcomes)
    assert found["overall"].value == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1) / 4)
    assert found["single"].value == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found["cross"].value == pytest.approx(0.75)
    assert (found["overall"].samples, found["single"].samples, found["cross"].samples) == (3, 2, 1)
    # not "all cycles must be right": sample single0 is right in three cycles and counts for them
    assert accuracy(outcomes[:1]).value == 1.0


def test_v_star_is_the_mean_over_samples_by_hand():
    """3 of 4 attributes, 1 of 2 relations: 4 of 6, not the mean of 75% and 50%."""
    outcomes = [
        Outcome(f"{name}{i}", f"{name}{i}", name, "", right)
        for name, rights in (("direct", (1.0, 1.0, 1.0, 0.0)), ("relative", (1.0, 0.0)))
        for i, right in enumerate(rights)
    ]
    found = accuracies(outcomes)
    assert {name: one.value for name, one in found.items()} == pytest.approx(
        {"overall": 4 / 6, "direct": 0.75, "relative": 0.5}
    )
    assert accuracies([]) == {}
    assert accuracies(outcomes[:4]).keys() == {"overall"}  # one category is no news


def test_what_could_not_be_judged_counts_neither_way():
    some = [Outcome("a", "a", "", "", None), Outcome("b", "b", "", "", 1.0)]
    assert (accuracy(some).value, accuracy(some).samples) == (1.0, 1)
    assert accuracy(some[:1]) is None


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_shares_have_wilsons_interval(right, n, low, high):
    found = share(right / n, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert share(0.5, 0) is None


def test_a_share_lies_in_its_interval_for_any_count():
    """1 of 1 to 500 of 500 once had upper ends a rounding error below 1."""
    for n in range(1, 500):
        for right in {0, n // 3, n}:
            found = share(right / n, n)
            assert 0 <= found.low <= found.value <= found.high <= 1


def test_paired_changes_by_hand():
    """10 samples: 4 change for worse, 1 for better. With one more of each, (5 - 2) / 12 = 0.25
    and a variance of (7 / 12 - 0.0625) / 12."""
    found = change([-1.0] * 4 + [1.0] + [0.0] * 5)
    assert found.value == pytest.approx(-0.3)
    half = 1.959964 * math.sqrt((7 / 12 - 0.0625) / 12)
    assert (found.low, found.high) == pytest.approx((-0.25 - half, -0.25 + half), abs=1e-6)
    assert change([]) is None


def test_the_interval_of_a_change_covers_it_and_never_has_no_width():
    """4,000 draws of 40 pairs that change for worse with 30% and for better with 10%."""
    rng = np.random.default_rng(0)
    draws = rng.choice([-1.0, 1.0, 0.0], p=[0.3, 0.1, 0.6], size=(4000, 40))
    found = [change(row.tolist()) for row in draws]
    covered = np.mean([one.low <= -0.2 <= one.high for one in found])
    assert 0.935 < covered < 0.97
    # beside a bootstrap over samples, on one draw: the same to two points
    row = draws[0]
    means = row[rng.integers(0, 40, (20_000, 40))].mean(axis=1)
    assert (found[0].low, found[0].high) == pytest.approx(
        tuple(np.percentile(means, [2.5, 97.5])), abs=0.05
    )
    same = change([0.0] * 40)
    assert same.low == pytest.approx(-Z * math.sqrt(2) / 42)
    assert same.high == -same.low > 0.06


@pytest.mark.parametrize("times", [1.0, 3.0])
@pytest.mark.parametrize("of", ["share", "drop"])
@pytest.mark.parametrize("n", [40, 200])
def test_intervals_of_other_ranges_cover(times, of, n):
    """4,000 draws of pairs before and after: of shares in 0..1, or of drops in -1..1, which are
    differences of shares themselves; `times` what was before."""
    rng = np.random.default_rng(1)
    shares = rng.random((4000, n, 4)) < (0.3, 0.8, 0.1, 0.2)  # before, after, and both with noise
    before, after, before_noise, after_noise = np.moveaxis(shares.astype(float), -1, 0)
    least, truth = 0.0, 0.8 - times * 0.3
    if of == "drop":
        before, after = before - before_noise, after - after_noise
        least, truth = -1.0, (0.8 - 0.2) - times * (0.3 - 0.1)
    ends = (least - times, 1 - times * least)
    found = [change(row.tolist(), ends) for row in after - times * before]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert 0.93 < covered < 0.98
    half = np.mean([one.high - one.low for one in found]) / 2
    assert half < 1.2 * Z * np.std(after - times * before) / math.sqrt(n)


def test_paired_by_samples():
    """Sample 0 goes from 4 of 4 cycles to 2, sample 1 stays; an unscored one is left out."""
    before = [hr(0, c, 1.0) for c in range(4)] + [hr(1, 0, 0.0), hr(2, 0, None)]
    after = [hr(0, c, float(c < 2)) for c in range(4)] + [hr(1, 0, 0.0), hr(2, 0, 1.0)]
    found = paired(before, after)
    assert (found.before, found.after, found.change.value) == (0.5, 0.25, -0.25)
    assert (found.questions, found.change.samples) == (5, 2)
    assert paired(before, []) is None


def test_the_papers_figures_stand_only_beside_what_they_are_of():
    def benchmark(kind, name, counts):
        records = [
            Record(f"{category}{i}", "q", "A", Picture(), ("a", "b"), category=category)
            for category, count in counts.items()
            for i in range(count)
        ]
        return Benchmark(name, kind, tuple(records), ())

    whole = {"direct_attributes": 115, "relative_position": 76}
    assert column_of(benchmark("v_star", "any", whole)) == V_STAR
    assert column_of(benchmark("v_star", "any", whole | {"relative_position": 75})) is None
    assert column_of(benchmark("v_star", "any", {"direct_attributes": 191})) is None
    rows = {"single": 400, "cross": 400}
    assert column_of(benchmark("hr_bench", "hr_bench_8k", rows)) == HR_8K
    assert column_of(benchmark("hr_bench", "HRBench4K", rows)) == HR_4K
    assert column_of(benchmark("hr_bench", "hrbench", rows)) is None
    assert column_of(benchmark("hr_bench", "hr_bench_8k", {"single": 4})) is None
    assert column_of(benchmark("layout", "hr_bench_8k", rows)) is None
