"""How long each request waited, read off the curves of arrivals and of starts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.scaling.queueing import Queue

MOST_POINTS: Final = 2_000_000
"""Above this many requests every n-th one is looked at."""

HAIR: Final = 1e-7
"""Of a request: sums of fractions must not put its start where the one before it has been."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Waits:
    """Of the requests that were served.

    Attributes:
        mean_s: Mean.
        p50_s: Median.
        p99_s: 99th percentile.
        max_s: Longest.
        total_s: Sum.
        waited_for_start: (steps,) requests that came in each step while no replica served, and were served later.
    """

    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float
    total_s: float
    waited_for_start: NDArray[np.float64]


def measure_waits(
    queue: Queue, step_s: float, serving: NDArray[np.int64], timeout_s: float, cold_extra_s: float
) -> Waits:
    """Return the waits.

    Args:
        queue: After the last step.
        step_s: Length of a step.
        serving: Replicas that served, in each step.
        timeout_s: Longer than this nobody waits; what a step adds is cut off.
        cold_extra_s: What the first request of a replica that loads with it takes longer; counted as waiting.
    """
    arrived, heads, started = np.asarray(queue.arrived), np.asarray(queue.heads), np.asarray(queue.started)
    stride = max(1, math.ceil(started[-1] / MOST_POINTS))
    # Requests are counted along the curve of starts, which those who gave up are not part of.
    count = np.arange(0.0, started[-1] - 2 * HAIR, stride)
    if not len(count):
        return Waits(0.0, 0.0, 0.0, 0.0, 0.0, np.zeros(len(serving)))
    start_step, start_s = _moments(count + HAIR, started[:-1], started[1:], step_s)
    index = heads[start_step] + np.maximum(0.0, count - started[start_step])
    came_step, came_s = _moments(index + HAIR, arrived[:-1], arrived[1:], step_s)
    waits = np.clip(start_s - came_s, 0.0, timeout_s)
    from_nothing = serving[came_step] == 0
    weights = np.full(waits.shape, float(stride))
    values, mass = _with_cold(waits, weights, start_step, np.asarray(queue.cold), cold_extra_s)
    order = np.argsort(values, kind="stable")
    values, mass = values[order], np.maximum.accumulate(np.cumsum(mass[order]))
    sum_s = float(waits.sum() * stride + sum(queue.cold) * cold_extra_s)
    return Waits(
        mean_s=sum_s / float(len(waits) * stride),
        p50_s=_quantile(values, mass, 0.5),
        p99_s=_quantile(values, mass, 0.99),
        max_s=float(values[-1]),
        total_s=sum_s,
        waited_for_start=np.bincount(came_step[from_nothing], minlength=len(serving)) * float(stride),
    )


def _moments(index: Floats, begins: Floats, ends: Floats, step_s: float) -> tuple[NDArray[np.int64], Floats]:
    """Return in which step, and when, a cumulative curve passes each index."""
    inside = np.minimum(np.searchsorted(ends, index, side="right"), len(ends) - 1)
    width = np.maximum(ends[inside] - begins[inside], 1e-12)
    return inside, (inside + np.clip((index - begins[inside]) / width, 0.0, 1.0)) * step_s


def _with_cold(
    waits: Floats, weights: Floats, steps: NDArray[np.int64], cold: NDArray[np.int64], extra_s: float
) -> tuple[Floats, Floats]:
    """Move as much weight as was served cold to waits that are ``extra_s`` longer."""
    where = np.flatnonzero(cold)
    if not len(where):
        return waits, weights
    near = np.minimum(np.searchsorted(steps, where), len(waits) - 1)
    base, moved = waits[near], cold[where].astype(float)
    return np.concatenate([waits, base, base + extra_s]), np.concatenate([weights, -moved, moved])


def _quantile(values: Floats, mass: Floats, share: float) -> float:
    return float(values[min(np.searchsorted(mass, share * mass[-1]), len(values) - 1)])
