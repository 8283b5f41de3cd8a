"""From the record of a run to its figures, and from runs to medians and ratios."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from warmswap_loadtests.open_loop import Outcome

BASELINE: Final = "naive"
STEADY_FACTOR: Final = 1.5
STEADY_WINDOW_S: Final = 3.0

Run = Mapping[str, Any]
"""What ``run.measure_run`` returns, with ``contender``, ``page_cache`` and ``run``."""

CORRECT: Final = Outcome.ANSWERED.value


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a run; less is better in all of them.

    Attributes:
        key: Its name in ``results.json``.
        label: Its name for people.
        unit: Written behind it.
        digits: Behind the decimal point.
    """

    key: str
    label: str
    unit: str = ""
    digits: int = 0


METRICS: Final = (
    Metric("live_s", "exec to live", "s", 2),
    Metric("ready_s", "exec to ready", "s", 2),
    Metric("first_correct_s", "exec to first correct answer", "s", 2),
    Metric("ready_answer_s", "ready + first request", "s", 2),
    Metric("first_ratio", "first request / steady median", "x", 2),
    Metric("max_ms", "max latency in the window", "ms"),
    Metric("p99_ms", "p99 latency in the window", "ms"),
    Metric("failed", "failed"),
    Metric("timed_out", "timed out"),
    Metric("wrong", "wrong answers"),
    Metric("not_routed", "not routed (no endpoint)"),
    Metric("steady_after_s", "exec to steady state", "s", 2),
    Metric("steady_ms", "steady median", "ms"),
    Metric("peak_rss_mb", "peak RSS", "MB"),
    Metric("pss_mb", "PSS", "MB"),
)


def run_figures(run: Run, seconds: float) -> dict[str, float | None]:
    """Return the figures of one run; ``None`` = it did not come to that.

    A request that timed out counts with its time-out among the latencies: it took at least that long. Where nothing
    was routed in the window, the first request is that of the closed loop after it.
    """
    requests = run["requests"]
    steady_ms = steady_median_ms(run)
    counts = Counter(request["outcome"] for request in requests)
    routed = [request for request in requests if request["outcome"] != Outcome.NOT_ROUTED]
    latencies = [_latency_ms(request) for request in routed if request["outcome"] != Outcome.FAILED]
    correct = [request["done_s"] for request in [*requests, *run["steady"]] if request["outcome"] == CORRECT]
    first = next(iter([*routed, *run["steady"]]), None)
    first_ms = _latency_ms(first) if first and first["outcome"] != Outcome.FAILED else None
    return {
        "live_s": run["live_s"],
        "ready_s": run["ready_s"],
        "first_correct_s": min(correct, default=None),
        "ready_answer_s": _ready_answer_s(run, first),
        "first_ratio": None if first_ms is None or steady_ms is None else first_ms / steady_ms,
        "max_ms": max(latencies, default=None),
        "p99_ms": float(np.percentile(latencies, 99)) if latencies else None,
        "failed": counts[Outcome.FAILED],
        "timed_out": counts[Outcome.TIMED_OUT],
        "wrong": counts[Outcome.WRONG],
        "not_routed": counts[Outcome.NOT_ROUTED],
        "steady_after_s": None if steady_ms is None else _steady_after_s(requests, steady_ms, seconds),
        "steady_ms": steady_ms,
        "peak_rss_mb": run["peak_rss_mb"],
        "pss_mb": run["pss_mb"],
    }


def steady_median_ms(run: Run) -> float | None:
    """Return the median of the closed loop after the window; ``None`` when nothing there was correct."""
    values = [_latency_ms(request) for request in run["steady"] if request["outcome"] == CORRECT]
    return statistics.median(values) if values else None


def summarise(runs: Sequence[Run], seconds: float) -> list[dict[str, Any]]:
    """Return, for each page cache state and contender: every metric as median, min, max and ratio to naive.

    Args:
        runs: In any order.
        seconds: How long arrivals came.
    """
    groups: dict[tuple[str, str], list[dict[str, float | None]]] = {}
    for run in runs:
        groups.setdefault((run["page_cache"], run["contender"]), []).append(run_figures(run, seconds))
    medians = {group: {metric.key: _spread(items, metric.key) for metric in METRICS} for group, items in groups.items()}
    summary: list[dict[str, Any]] = []
    for (state, contender), metrics in medians.items():
        base = medians.get((state, BASELINE), {})
        for key, spread in metrics.items():
            spread["ratio"] = _ratio(spread["median"], base.get(key, {}).get("median"))
        summary.append({"page_cache": state, "contender": contender, "metrics": metrics})
    return summary


def typical_run(runs: Sequence[Run], seconds: float) -> Run:
    """Return the run whose first correct answer came in the middle of all."""
    never = float("inf")
    ordered = sorted(runs, key=lambda run: run_figures(run, seconds)["first_correct_s"] or never)
    return ordered[(len(ordered) - 1) // 2]


def _ready_answer_s(run: Run, first: Mapping[str, Any] | None) -> float | None:
    """Return when a request that arrives just when the contender is ready has its answer.

    Unlike the first correct answer, it does not depend on when the next arrival is due, which is seconds at low rates.
    """
    if run["ready_s"] is None or first is None or first["outcome"] != CORRECT:
        return None
    return float(run["ready_s"]) + _latency_ms(first) / 1e3


def _latency_ms(request: Mapping[str, Any]) -> float:
    return float(request["done_s"] - request["due_s"]) * 1e3


def _steady_after_s(requests: Sequence[Mapping[str, Any]], steady_ms: float, seconds: float) -> float | None:
    """Return when the first ``STEADY_WINDOW_S`` begin in which all arrivals were answered in steady time."""
    good = [request["outcome"] == CORRECT and _latency_ms(request) <= STEADY_FACTOR * steady_ms for request in requests]
    for index, request in enumerate(requests):
        end_s = request["due_s"] + STEADY_WINDOW_S
        if end_s > seconds:
            return None
        within = [ok for ok, other in zip(good[index:], requests[index:], strict=True) if other["due_s"] < end_s]
        if all(within):
            return float(request["due_s"])
    return None


def _spread(items: Sequence[Mapping[str, float | None]], key: str) -> dict[str, float | None]:
    """Return median, least and most; runs that did not come to it count as never."""
    values = [value for item in items if (value := item[key]) is not None]
    if not values:
        return {"median": None, "min": None, "max": None}
    never = float("inf")
    padded = sorted([*values, *[never] * (len(items) - len(values))])
    median, most = statistics.median(padded), padded[-1]
    return {"median": _finite(median), "min": padded[0], "max": _finite(most)}


def _finite(value: float) -> float | None:
    return value if value != float("inf") else None


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
