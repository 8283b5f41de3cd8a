"""Intervals: against published figures, and against what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import pytest

from warmswap_ops.rollout import statistics
from warmswap_ops.rollout.statistics import (
    MANY,
    Interval,
    difference_of_proportions,
    fewest_values,
    least_increase,
    mean_interval,
    quantile,
    quantile_interval,
    ratio_of_quantiles,
    wilson,
)

ALPHA = 0.05
DATA_SETS = 1500
COVERED = 0.935  # of 1500 data sets; at exactly 0.95 that is less likely than 1 %

Draw = Callable[[np.random.Generator], Interval]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, p. 861, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials, ALPHA) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("more", "less", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, p. 881, method 10
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((10, 10), (0, 10), 0.6075, 1.0),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_newcombe_as_published(more: tuple[int, int], less: tuple[int, int], low: float, high: float) -> None:
    assert difference_of_proportions(less, more, ALPHA) == pytest.approx((low, high), abs=5e-5)
    assert difference_of_proportions(more, less, ALPHA) == pytest.approx((-high, -low), abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, Statistics in Medicine 17, p. 861, method 5
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_exact_shares_as_published(successes: int, trials: int, low: float, high: float) -> None:
    assert statistics._least_share(successes, trials, ALPHA / 2) == pytest.approx(low, abs=5e-5)
    assert 1 - statistics._least_share(trials - successes, trials, ALPHA / 2) == pytest.approx(high, abs=5e-5)


def binomial(count: int, share: float) -> list[float]:
    return [math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(count + 1)]


@pytest.mark.parametrize("trials", [(400, 1), (400, 3), (400, 7), (60, 20), (5, 5), (1, 30)])
@pytest.mark.parametrize("share", [0.002, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("more", [0.0, 0.05])
def test_an_increase_is_overstated_as_seldom_as_promised(trials: tuple[int, int], share: float, more: float) -> None:
    """All that can happen, with its probability: nothing is drawn."""
    alpha, first, second = 0.01, binomial(trials[0], share), binomial(trials[1], share + more)
    wrong = math.fsum(
        p * q
        for a, p in enumerate(first)
        for b, q in enumerate(second)
        if p * q > 1e-9 and least_increase((a, trials[0]), (b, trials[1]), alpha) > more
    )
    assert wrong <= alpha / 2


def test_an_increase_is_seen_in_the_end() -> None:
    assert least_increase((0, 600), (12, 60), 0.001) > 0.04
    assert least_increase((500, 10_000), (1000, 10_000), 0.001) == pytest.approx(0.05, abs=0.02)
    assert least_increase((0, 0), (20, 20), ALPHA) < 0 < least_increase((0, 20), (20, 20), ALPHA)
    assert least_increase((3, 3), (0, 0), ALPHA) == -1.0
    assert least_increase((0, 200_000), (0, 200_000), ALPHA) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("alpha", "expected"), [(0.05, 6), (0.001, 11), (1.0, 1)])
def test_the_fewest_values_are_those_that_bound_a_median(alpha: float, expected: int) -> None:
    assert fewest_values(alpha) == expected
    assert math.isfinite(quantile_interval([1.0] * expected, 0.5, alpha).high)
    assert not math.isfinite(quantile_interval([1.0] * (expected - 1), 0.5, alpha).high)


def test_a_ratio_gives_each_quantile_its_half() -> None:
    """Nine values bound a median with 5 % by the second and the eighth, with 2.5 % by the first and the last."""
    first, second = [float(value) for value in range(1, 10)], [float(value) for value in range(10, 100, 10)]
    assert quantile_interval(first, 0.5, ALPHA) == (2.0, 8.0)
    assert ratio_of_quantiles(first, second, 0.5, ALPHA) == (10 / 9, 90.0)


@pytest.mark.parametrize(
    ("alpha", "freedom", "expected"),
    [
        (0.05, 1, 12.706),
        (0.05, 2, 4.303),
        (0.05, 3, 3.182),
        (0.05, 5, 2.571),
        (0.05, 10, 2.228),
        (0.05, 30, 2.042),
        (0.05, 120, 1.980),
        (0.01, 1, 63.657),
        (0.01, 2, 9.925),
        (0.01, 9, 3.250),
        (0.01, 60, 2.660),
        (0.001, 4, 8.610),
        (0.001, 10, 4.587),
    ],
)
def test_students_t_as_tabulated(alpha: float, freedom: int, expected: float) -> None:
    assert statistics._t(alpha, freedom) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_students_t_becomes_normal(alpha: float) -> None:
    before, after = statistics._t(alpha, MANY), statistics._t(alpha, MANY + 1)
    assert after == pytest.approx(NormalDist().inv_cdf(1 - alpha / 2))
    assert before == pytest.approx(after, rel=0.01)


def test_a_mean_by_hand() -> None:
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0], ALPHA)  # standard error 0.6455, t 3.182
    assert (low, high) == pytest.approx((2.5 - 2.0542, 2.5 + 2.0542), abs=1e-3)
    assert mean_interval([3.0, 3.0, 3.0], ALPHA) == (3.0, 3.0)


@pytest.mark.parametrize(
    ("count", "ranks"),
    [  # of the median, 95 %: tables of the sign test
        (6, (1, 6)),
        (8, (1, 8)),
        (9, (2, 8)),
        (10, (2, 9)),
        (20, (6, 15)),
        (50, (18, 33)),
        (100, (40, 61)),
    ],
)
def test_ranks_of_the_median_as_tabulated(count: int, ranks: tuple[int, int]) -> None:
    values = [float(value) for value in range(1, count + 1)]
    assert quantile_interval(values[::-1], 0.5, ALPHA) == ranks


def test_tiny_samples_bound_nothing() -> None:
    assert wilson(0, 0, ALPHA) == (0.0, 1.0)
    assert mean_interval([], ALPHA) == mean_interval([5.0], ALPHA) == (-math.inf, math.inf)
    for count in range(6):
        assert quantile_interval([1.0] * count, 0.5, ALPHA) == (0.0, math.inf)
    assert quantile_interval([1.0] * 367, 0.99, ALPHA).high == math.inf  # 0.99 ** 367 > 0.025
    assert quantile_interval([1.0] * 368, 0.99, ALPHA).high == 1.0
    assert ratio_of_quantiles([], [1.0] * 100, 0.5, ALPHA) == (0.0, math.inf)
    assert ratio_of_quantiles([1.0] * 100, [], 0.5, ALPHA) == (0.0, math.inf)
    assert (
        difference_of_proportions((0, 0), (0, 0), ALPHA).low < 0 < difference_of_proportions((0, 0), (9, 9), 0.5).high
    )


@pytest.mark.parametrize("first", [(0, 0), (0, 1000), (1000, 1000), (500, 1000)])
def test_without_requests_nothing_is_held_against_a_version(first: tuple[int, int]) -> None:
    assert (
        difference_of_proportions(first, (0, 0), ALPHA).low <= 0 <= difference_of_proportions(first, (0, 0), 0.1).high
    )


def test_without_requests_to_compare_with_few_errors_prove_little() -> None:
    """All that is known then is that nobody can fail less than never."""
    assert difference_of_proportions((0, 0), (0, 500), ALPHA) == (-1.0, wilson(0, 500, ALPHA).high)
    assert difference_of_proportions((0, 0), (20, 20), ALPHA) == (wilson(20, 20, ALPHA).low - 1.0, 1.0)


def test_latencies_too_short_for_the_clock_bound_nothing() -> None:
    assert ratio_of_quantiles([0.0] * 100, [1.0] * 100, 0.5, ALPHA) == (0.0, math.inf)
    assert ratio_of_quantiles([1.0] * 100, [0.0] * 100, 0.5, ALPHA) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("values", "q", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([2.0, 1.0], 0.5, 1.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([4.0, 3.0, 2.0, 1.0], 0.0, 1.0),
        ([4.0, 3.0, 2.0, 1.0], 1.0, 4.0),
        ([float(value) for value in range(100)], 0.99, 98.0),
    ],
)
def test_sample_quantiles(values: Sequence[float], q: float, expected: float) -> None:
    assert quantile(values, q) == expected


def test_more_confidence_is_wider() -> None:
    values = np.random.default_rng(1).normal(10.0, 1.0, 500).tolist()
    intervals: list[Callable[[float], Interval]] = [
        lambda alpha: wilson(3, 40, alpha),
        lambda alpha: difference_of_proportions((1, 50), (4, 40), alpha),
        lambda alpha: mean_interval(values, alpha),
        lambda alpha: quantile_interval(values, 0.5, alpha),
        lambda alpha: ratio_of_quantiles(values, values[:300], 0.5, alpha),
        lambda alpha: Interval(least_increase((1, 50), (4, 40), alpha), -least_increase((4, 40), (1, 50), alpha)),
    ]
    for interval in intervals:
        sure, likely = interval(0.001), interval(0.1)
        assert sure.low < likely.low < likely.high < sure.high


def test_many_values_are_no_trouble() -> None:
    values = np.random.default_rng(2).exponential(1.0, 200_000).tolist()
    low, high = quantile_interval(values, 0.99, 1e-4)
    assert low < -math.log(0.01) < high
    assert high - low < 0.4


def normal_mean(random: np.random.Generator) -> Interval:
    return mean_interval(random.normal(3.0, 2.0, 8).tolist(), ALPHA)


def one_proportion(random: np.random.Generator) -> Interval:
    return wilson(int(random.binomial(80, 0.07)), 80, ALPHA)


def two_proportions(random: np.random.Generator) -> Interval:
    first, second = int(random.binomial(300, 0.05)), int(random.binomial(60, 0.12))
    return difference_of_proportions((first, 300), (second, 60), ALPHA)


def median(random: np.random.Generator) -> Interval:
    return quantile_interval(random.lognormal(1.0, 0.7, 60).tolist(), 0.5, ALPHA)


def tail(random: np.random.Generator) -> Interval:
    return quantile_interval(random.exponential(1.0, 800).tolist(), 0.99, ALPHA)


def ratio(random: np.random.Generator) -> Interval:
    first, second = random.lognormal(1.0, 0.5, 150), random.lognormal(1.4, 0.8, 40)
    return ratio_of_quantiles(first.tolist(), second.tolist(), 0.5, ALPHA)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (normal_mean, 3.0),
        (one_proportion, 0.07),
        (two_proportions, 0.07),
        (median, math.e),
        (tail, -math.log(0.01)),
        (ratio, math.exp(0.4)),
    ],
)
def test_the_truth_lies_within_as_often_as_promised(draw: Draw, truth: float) -> None:
    random = np.random.default_rng(20)
    intervals = [draw(random) for _ in range(DATA_SETS)]
    covered = sum(low <= truth <= high for low, high in intervals) / DATA_SETS
    assert covered >= COVERED
    assert any(not low <= truth <= high for low, high in intervals)  # as wide as that, and no wider than all there is


@pytest.mark.parametrize(("draw", "truth"), [(normal_mean, 3.0), (two_proportions, 0.07), (median, math.e)])
def test_neither_side_is_missed_more_often_than_its_half(draw: Draw, truth: float) -> None:
    """The gates look at one side each."""
    random = np.random.default_rng(21)
    intervals = [draw(random) for _ in range(DATA_SETS)]
    assert sum(interval.low > truth for interval in intervals) <= 0.035 * DATA_SETS
    assert sum(interval.high < truth for interval in intervals) <= 0.035 * DATA_SETS
