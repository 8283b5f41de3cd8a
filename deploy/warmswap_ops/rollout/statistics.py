"""Intervals that say how much a sample can prove. ``alpha`` is the chance that the truth lies outside, two-sided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Final, NamedTuple

MANY: Final = 400
"""Degrees of freedom from which Student's t is taken for normal: they differ by less than 0.5 % at alpha = 0.001."""


class Interval(NamedTuple):
    """What the truth lies in."""

    low: float
    high: float


def wilson(successes: int, trials: int, alpha: float) -> Interval:
    """Return the score interval of a proportion (Wilson 1927); without trials it may be anything."""
    if trials == 0:
        return Interval(0.0, 1.0)
    z = _z(alpha)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return Interval(max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale))


def difference_of_proportions(first: tuple[int, int], second: tuple[int, int], alpha: float) -> Interval:
    """Return the interval of ``second - first``, each (successes, trials): Newcombe's score (1998, method 10)."""
    (a, n), (b, m) = first, second
    low_a, high_a = wilson(a, n, alpha)
    low_b, high_b = wilson(b, m, alpha)
    if not n or not m:  # no share to put the interval around: what is known of the other side is all there is
        return Interval(low_b - high_a, high_b - low_a)
    share_a, share_b = a / n, b / m
    difference = share_b - share_a
    low = difference - math.hypot(share_b - low_b, high_a - share_a)
    high = difference + math.hypot(high_b - share_b, share_a - low_a)
    return Interval(max(-1.0, low), min(1.0, high))


def least_increase(first: tuple[int, int], second: tuple[int, int], alpha: float) -> float:
    """Return what ``second - first``, each (successes, trials), is at least; wrong with at most ``alpha / 2``.

    Both shares get their exact bound (Clopper and Pearson 1934) and half of that chance (Bonferroni), so it is right
    for any sample. Score intervals are too narrow where there are few trials and a small share: one failure among the
    first requests of a candidate would be held against it.
    """
    tail = alpha / 4
    return _least_share(*second, tail) - (1 - _least_share(first[1] - first[0], first[1], tail))


def quantile(values: Sequence[float], q: float) -> float:
    """Return the sample quantile: the smallest value that at least ``q`` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def quantile_interval(values: Sequence[float], q: float, alpha: float) -> Interval:
    """Return the interval of a quantile whatever the distribution is, from two order statistics (David 1981, 2.5).

    How many of n values lie below the quantile is binomial (n, q). Where the sample is too small to bound it on a side,
    that side is infinite, or 0.
    """
    count = len(values)
    if count == 0:
        return Interval(0.0, math.inf)
    ordered = sorted(values)
    low_rank, high_rank = _ranks(count, q, alpha / 2)
    low = ordered[low_rank - 1] if low_rank >= 1 else 0.0
    high = ordered[high_rank - 1] if high_rank <= count else math.inf
    return Interval(low, high)


def ratio_of_quantiles(first: Sequence[float], second: Sequence[float], q: float, alpha: float) -> Interval:
    """Return an interval of second/first; each quantile gets half of alpha, so it is rather too wide (Bonferroni)."""
    below, above = quantile_interval(first, q, alpha / 2), quantile_interval(second, q, alpha / 2)
    low = above.low / below.high if below.high > 0 else 0.0
    high = above.high / below.low if below.low > 0 else math.inf
    return Interval(low, high)


def mean_interval(values: Sequence[float], alpha: float) -> Interval:
    """Return the interval of a mean by Student's t; fewer than two values prove nothing."""
    count = len(values)
    if count < 2:
        return Interval(-math.inf, math.inf)
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    margin = _t(alpha, count - 1) * math.sqrt(variance / count)
    return Interval(mean - margin, mean + margin)


def fewest_values(alpha: float) -> int:
    """Return how many values it takes to bound a median on both sides, whatever their distribution is."""
    return math.ceil(math.log2(2 / alpha))


def unseen_share(count: int, tail: float) -> float:
    """Return how large a part of a distribution may be that none of ``count`` values has met; wrong with ``tail``."""
    return 1 - math.pow(tail, 1 / count)


def _z(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2)


def _least_share(successes: int, trials: int, tail: float) -> float:
    """Return the share with which so many successes, or more, are as unlikely as ``tail``; found by halving."""
    if successes == 0:
        return 0.0
    low, high = 0.0, successes / trials
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_least(successes, trials, middle) < tail else (low, middle)
    return low


def _at_least(successes: int, trials: int, share: float) -> float:
    """Return how likely so many successes, or more, are; ``share`` is below ``successes / trials``."""
    if share == 0:
        return 0.0
    log_pmf = _log_pmf(trials, share)
    likely = 0.0
    for k in range(successes, trials + 1):  # ever less likely, since the share is below
        term = math.exp(log_pmf(k))
        likely += term
        if term < 1e-12 * likely:
            break
    return likely


def _log_pmf(count: int, share: float) -> Callable[[int], float]:
    """Return the logarithm of the binomial distribution, for shares between 0 and 1."""
    log_share, log_rest = math.log(share), math.log1p(-share)

    def log_pmf(k: int) -> float:
        ways = math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        return ways + k * log_share + (count - k) * log_rest

    return log_pmf


@lru_cache(maxsize=4096)
def _t(alpha: float, freedom: int) -> float:
    """Return what Student's t exceeds, on either side, with probability ``alpha``; found by halving."""
    if freedom > MANY:
        return _z(alpha)
    low, high = 0.0, 1.0
    while _t_inside(high, freedom) < 1 - alpha:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_inside(middle, freedom) < 1 - alpha else (low, middle)
    return high


def _t_inside(t: float, freedom: int) -> float:
    """Return the probability that Student's t lies within +-t (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = freedom % 2
    term, total = (cosine, cosine) if is_odd else (1.0, 1.0)
    if freedom == 1:
        return 2 * theta / math.pi
    for k in range(2 + is_odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    return 2 / math.pi * (theta + sine * total) if is_odd else sine * total


def _ranks(count: int, q: float, tail: float) -> tuple[int, int]:
    """Return the ranks whose values bound the quantile, each missing it with at most ``tail``.

    The lower one is the highest r with P(B < r) <= tail, the upper one the lowest s with P(B >= s) <= tail, for B
    binomial (count, q); 0 and count + 1 = there is none.
    """
    log_pmf = _log_pmf(count, q)
    spread = 12 * math.sqrt(count * q * (1 - q)) + 12
    first, last = max(0, math.floor(count * q - spread)), min(count, math.ceil(count * q + spread))
    below, low_rank = 0.0, 0
    for k in range(first, last + 1):
        below += math.exp(log_pmf(k))
        if below > tail:
            break
        low_rank = k + 1
    above, high_rank = 0.0, count + 1
    for k in range(last, first - 1, -1):
        above += math.exp(log_pmf(k))
        if above > tail:
            break
        high_rank = k
    return low_rank, high_rank
