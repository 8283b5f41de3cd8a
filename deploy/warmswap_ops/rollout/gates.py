"""Is the candidate harmful, harmless, or not known yet? The verdict of each gate, and what follows from all of them.

A gate *fails* on evidence of harm: the whole interval lies beyond the limit. It *passes* on evidence of no harm: the
whole interval lies within. Everything else is undecided, as small samples are. The gates are looked at again and again
while a step lasts, and any look may end it, so each gets its part of alpha (Bonferroni): over all looks of a step
together, a candidate that is as good as the stable version fails a gate with at most ``1 - confidence``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from warmswap_ops.rollout.plan import Plan
from warmswap_ops.rollout.statistics import (
    Interval,
    difference_of_proportions,
    fewest_values,
    least_increase,
    mean_interval,
    quantile,
    quantile_interval,
    ratio_of_quantiles,
    unseen_share,
)

ERRORS: Final = "errors"
P50: Final = "p50"
P99: Final = "p99"
_QUANTILES: Final = ((P50, 0.5), (P99, 0.99))
_REQUIRED: Final = (ERRORS, P50)
"""Gates that must pass, not only not fail, where a plan is strict."""

BEST: Final = {
    "recall": 1.0,
    "precision": 1.0,
    "iou": 1.0,
    "kps_error": 0.0,
    "landmark_error": 0.0,
    "cosine": 1.0,
    "psnr_db": 100.0,
    "ssim": 1.0,
    "identity_gain": 1.0,
}
"""How good a measure can get; see ``warmswap_ensemble.comparison``. Faces of two people have a cosine of about 0."""


class Outcome(StrEnum):
    """What a gate says."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


class Decision(StrEnum):
    """What follows."""

    ADVANCE = "advance"
    WAIT = "wait"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True, slots=True)
class Arm:
    """One version in a stretch of time.

    Attributes:
        requests: That it was given.
        errors: Of these, what it failed.
        latencies_ms: Of the others.
    """

    requests: int = 0
    errors: int = 0
    latencies_ms: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """Both versions in the same stretch of time.

    Attributes:
        stable: The one that serves.
        candidate: The one that is tried.
        measures: What second looks have measured, by name; see ``warmswap_ensemble.comparison``.
    """

    stable: Arm = field(default_factory=Arm)
    candidate: Arm = field(default_factory=Arm)
    measures: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says.

    Attributes:
        gate: Its name.
        outcome: What it says.
        value: What was observed; NaN = nothing.
        interval: What the truth lies in.
        limit: Of the plan.
        samples: How many observations of the candidate there are.
        sentence: The same for people.
        is_suspect: Whether second looks lie beyond the limit on average, and prove nothing yet.
    """

    gate: str
    outcome: Outcome
    value: float
    interval: Interval
    limit: float
    samples: int
    sentence: str
    is_suspect: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; what is infinite or unknown is null."""
        low, high = (_finite(bound) for bound in self.interval)
        return {
            "gate": self.gate,
            "outcome": self.outcome.value,
            "value": _finite(self.value),
            "low": low,
            "high": high,
            "limit": self.limit,
            "samples": self.samples,
            "sentence": self.sentence,
        }


def alpha_of(plan: Plan, looks: int) -> float:
    """Return how often one look of so many may be wrong."""
    return (1 - plan.gates.confidence) / max(1, looks)


def judge(window: Window, plan: Plan, *, looks: int, baseline: Arm | None = None) -> list[Verdict]:
    """Return the verdict of every gate.

    Args:
        window: What was observed.
        plan: The limits.
        looks: How often the gates are looked at in this step.
        baseline: What the stable version did before, for a step that leaves it no requests.
    """
    alpha = alpha_of(plan, looks)
    stable, source = window.stable, ""
    if not stable.requests and baseline is not None:
        stable, source = baseline, " (of the step before)"
    verdicts = [_judge_errors(stable, window.candidate, plan, alpha, source)]
    for name, q in _QUANTILES:
        verdicts.append(_judge_latency(name, q, stable, window.candidate, plan, alpha, source))
    return verdicts + judge_quality(window.measures, plan, alpha)


def judge_quality(measures: Mapping[str, Sequence[float]], plan: Plan, alpha: float) -> list[Verdict]:
    """Return the verdicts on what was measured; a measure that is not there has none."""
    verdicts: list[Verdict] = []
    for name in plan.quality.__dataclass_fields__:
        side, _, measure = name.partition("_")
        values = measures.get(measure, ())
        if values:
            verdicts.append(_judge_measure(measure, values, side == "min", float(getattr(plan.quality, name)), alpha))
    return verdicts


def _judge_measure(measure: str, values: Sequence[float], is_least: bool, limit: float, alpha: float) -> Verdict:
    """Judge a mean by Student's t, which knows what was seen, and by how good the rest may be that was not.

    The first alone would take two equal values for certainty, and many equal ones for all that there is.
    """
    count, best = len(values), BEST[measure]
    mean, interval = math.fsum(values) / count, mean_interval(values, alpha)
    half, unseen = mean_interval(values, alpha / 2), unseen_share(count, alpha / 4)
    kindest = (1 - unseen) * (half.high if is_least else half.low) + unseen * best
    outcome = _outcome(Interval(-interval.high, -interval.low), -limit) if is_least else _outcome(interval, limit)
    is_clear = count >= fewest_values(alpha) and not (outcome is Outcome.FAIL and _is_within(kindest, is_least, limit))
    note = "" if is_clear or outcome is Outcome.UNDECIDED else ", too few to be sure"
    sentence = (
        f"{measure} {mean:.4g} ({_range(interval)}) over {count}{note}, at {'least' if is_least else 'most'} {limit:g}"
    )
    outcome = outcome if is_clear else Outcome.UNDECIDED
    is_suspect = outcome is Outcome.UNDECIDED and not _is_within(mean, is_least, limit)
    return Verdict(measure, outcome, mean, interval, limit, count, sentence, is_suspect)


def decide(
    verdicts: Sequence[Verdict],
    *,
    missing: str,
    soaked: bool,
    timed_out: bool,
    needs_evidence: bool = False,
    more_looks: bool = True,
) -> tuple[Decision, str]:
    """Return what follows from the verdicts, and why.

    Args:
        verdicts: Of all gates.
        missing: What there is too little of, for people; empty = there are as many samples as it takes.
        soaked: Whether the step has lasted as long as the plan wants.
        timed_out: Whether it must not last longer.
        needs_evidence: Whether errors and median must pass; else it is enough that no gate fails, and that no measure
            of second looks lies beyond its limit on average.
        more_looks: Whether there are second looks still, so that waiting for more may settle what is suspect.
    """
    failed = [verdict.sentence for verdict in verdicts if verdict.outcome is Outcome.FAIL]
    if failed:
        return Decision.ROLL_BACK, "; ".join(failed)
    open_ones = [
        verdict.sentence
        for verdict in verdicts
        if (more_looks and verdict.is_suspect)
        or (needs_evidence and verdict.gate in _REQUIRED and verdict.outcome is not Outcome.PASS)
    ]
    if soaked and not missing and not open_ones:
        return Decision.ADVANCE, ""
    if timed_out:
        wanted = "; ".join([missing] if missing else open_ones)
        return Decision.ROLL_BACK, f"not enough to judge by in the time that the plan gives: {wanted}"
    return Decision.WAIT, ""


def missing_requests(candidate: Arm, least: int) -> str:
    """Return that too few requests have reached a candidate; empty = there are as many as that."""
    few = candidate.requests < least
    return f"too few requests reached the candidate, {candidate.requests} of {least}" if few else ""


def missing_looks(
    verdicts: Sequence[Verdict], looks: int, least: int, alpha: float, *, what: str = "second looks"
) -> str:
    """Return what there is too little of where second looks decide; empty = there is enough.

    A measure that was taken at all must have been taken so often that its gate could have said no.

    Args:
        verdicts: Those on measures, and others, which do not matter here.
        looks: How many there were.
        least: How many the plan wants.
        alpha: Of each look at the gates.
        what: What they are called.
    """
    fewest = fewest_values(alpha)
    if looks < max(least, fewest):
        return f"too few {what}, {looks} of {max(least, fewest)}"
    rare = [f"{each.gate} {each.samples}" for each in verdicts if each.gate in BEST and each.samples < fewest]
    return f"too few measures, {', '.join(rare)} of {fewest}" if rare else ""


def _judge_errors(stable: Arm, candidate: Arm, plan: Plan, alpha: float, source: str) -> Verdict:
    limit = plan.gates.max_error_increase
    before, after = (stable.errors, stable.requests), (candidate.errors, candidate.requests)
    interval = difference_of_proportions(before, after, alpha)
    interval = Interval(min(interval.low, least_increase(before, after, alpha)), interval.high)
    value = _share(candidate) - _share(stable)
    sentence = (
        f"errors {candidate.errors} of {candidate.requests} against {stable.errors} of {stable.requests}{source}: "
        f"{_range(Interval(100 * interval.low, 100 * interval.high))} points more, limit {100 * limit:g}"
    )
    return Verdict(ERRORS, _outcome(interval, limit), value, interval, limit, candidate.requests, sentence)


def _judge_latency(name: str, q: float, stable: Arm, candidate: Arm, plan: Plan, alpha: float, source: str) -> Verdict:
    limit = plan.gates.max_p50_ratio if name == P50 else plan.gates.max_p99_ratio
    first, second = stable.latencies_ms, candidate.latencies_ms
    interval = ratio_of_quantiles(first, second, q, alpha)
    if not first or not second:
        nothing = (
            f"{name}: nothing to compare, {len(second)} answers of the candidate and {len(first)} of the stable version"
        )
        return Verdict(name, Outcome.UNDECIDED, math.nan, interval, limit, len(second), nothing)
    before_ms, after_ms = quantile(first, q), quantile(second, q)
    ratio = after_ms / before_ms if before_ms else math.nan  # too short for the clock
    outcome = _outcome(interval, limit)
    slack = plan.gates.min_slowdown_ms
    least_ms, most_ms = quantile_interval(second, q, alpha / 2), quantile_interval(first, q, alpha / 2)
    if outcome is Outcome.FAIL and least_ms.low - most_ms.high <= slack:
        outcome = Outcome.UNDECIDED
    if outcome is Outcome.UNDECIDED and least_ms.high - most_ms.low <= slack:
        outcome = Outcome.PASS  # slower or not, it is by less than is worth a word
    sentence = (
        f"{name} {after_ms:.1f} ms against {before_ms:.1f}{source}: {ratio:.2f} times "
        f"({_range(interval)}), limit {limit:g}, {len(second)} and {len(first)} answers"
    )
    return Verdict(name, outcome, ratio, interval, limit, len(second), sentence)


def _outcome(interval: Interval, limit: float) -> Outcome:
    if interval.low > limit:
        return Outcome.FAIL
    return Outcome.PASS if interval.high <= limit else Outcome.UNDECIDED


def _is_within(value: float, is_least: bool, limit: float) -> bool:
    return value >= limit if is_least else value <= limit


def _share(arm: Arm) -> float:
    return arm.errors / arm.requests if arm.requests else 0.0


def _range(interval: Interval) -> str:
    return f"{interval.low:.3g} to {interval.high:.3g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
