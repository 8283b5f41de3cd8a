"""What is reported of a run, and its course for charts."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.scaling.simulation import Run

HOUR_S: Final = 3600.0
POINTS: Final = 480
"""Of a course: more than a chart can show are of no use."""

Figures = dict[str, Any]


def summarise(run: Run, price_per_hour: float) -> Figures:
    """Return the figures of one run.

    ``served_cold`` are requests that a replica loaded for, and those that came while no replica served and were served
    later. ``wait_total_s`` counts those who gave up too. ``short_s`` is how long the trace asked for more than the
    replicas in service can do.
    """
    requests = int(run.arrivals.sum())
    lost = round(float(run.lost[-1]))
    served = max(0, requests - lost - run.waiting)
    first, started = int(run.cold.sum()), round(float(run.waits.waited_for_start.sum()))
    hours = len(run.arrivals) * run.step_s / HOUR_S
    paid_hours = float(run.paid.sum()) * run.step_s / HOUR_S
    return {
        "requests": requests,
        "served": served,
        "lost": lost,
        "waiting_at_the_end": requests - served - lost,
        "served_cold": min(served, first + started),
        "cold_first_requests": first,
        "waited_for_a_start": started,
        "wait_mean_s": round(run.waits.mean_s, 3),
        "wait_p50_s": round(run.waits.p50_s, 3),
        "wait_p99_s": round(run.waits.p99_s, 3),
        "wait_max_s": round(run.waits.max_s, 3),
        "wait_total_s": round(run.waits.total_s + run.gave_up_s, 1),
        "replica_hours": round(float(run.wanted.sum()) * run.step_s / HOUR_S, 3),
        "paid_hours": round(paid_hours, 3),
        "cost": round(paid_hours * price_per_hour, 4),
        "hours": round(hours, 4),
        "peak_wanted": int(run.wanted.max()),
        "peak_serving": int(run.serving.max()),
        "short_s": round(float((run.rates > run.serving * run.capacity_per_s + 1e-9).sum()) * run.step_s, 1),
    }


def course(run: Run) -> dict[str, list[float]]:
    """Return the run in at most ``POINTS`` pieces: mean rates and replicas, the most of a backlog, sums of requests."""
    edges = np.unique(np.linspace(0, len(run.arrivals), POINTS + 1).astype(int))
    begins, lengths = edges[:-1], np.diff(edges)
    lost = np.diff(run.lost, prepend=0.0)

    def mean(values: NDArray[Any]) -> list[float]:
        return _short(np.add.reduceat(values.astype(float), begins) / lengths)

    return {
        "time_s": _short(begins * run.step_s),
        "rate": mean(run.rates),
        "needed": mean(run.rates / run.capacity_per_s),
        "wanted": mean(run.wanted),
        "serving": mean(run.serving),
        "backlog": _short(np.maximum.reduceat(run.backlog, begins)),
        "cold": _short(np.add.reduceat(run.cold + run.waits.waited_for_start, begins)),
        "lost": _short(np.add.reduceat(lost, begins)),
    }


def _short(values: NDArray[Any]) -> list[float]:
    return [float(f"{value:.5g}") for value in values.tolist()]
