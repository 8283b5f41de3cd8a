"""One policy over one trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.scaling.autoscaler import Autoscaler, Seen
from warmswap_loadtests.scaling.measured import Measured
from warmswap_loadtests.scaling.pods import Pods
from warmswap_loadtests.scaling.policy import Policy
from warmswap_loadtests.scaling.queueing import Queue
from warmswap_loadtests.scaling.scrapes import Sample, Scrapes
from warmswap_loadtests.scaling.trace import Trace
from warmswap_loadtests.scaling.waits import Waits, measure_waits

INITIAL_USE: Final = 0.7
"""A trace begins with the warm replicas that its first rate keeps this busy, or the least that is allowed."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Run:
    """What happened. Arrays have one entry per step.

    Attributes:
        step_s: Length of a step.
        arrivals: Requests.
        rates: Requests a second that the trace says.
        wanted: Replicas that the autoscaler asks for.
        serving: Replicas that requests are sent to.
        paid: Nodes paid for.
        backlog: Requests that wait.
        cold: First requests of replicas that load with them.
        lost: Requests that gave up or found nobody, cumulative.
        capacity_per_s: What one replica can do.
        waiting: Requests that still waited at the end.
        gave_up_s: What those who gave up had waited, summed.
        waits: Of those served.
    """

    step_s: float
    arrivals: Ints
    rates: NDArray[np.float64]
    wanted: Ints
    serving: Ints
    paid: Ints
    backlog: NDArray[np.float64]
    cold: Ints
    lost: NDArray[np.float64]
    capacity_per_s: float
    waiting: int
    gave_up_s: float
    waits: Waits


def simulate(policy: Policy, measured: Measured, trace: Trace, step_s: float = 1.0, seed: int = 0) -> Run:
    """Run a policy over a trace.

    Args:
        policy: What decides.
        measured: Start and service times.
        trace: What arrives.
        step_s: Resolution; no wait is known better.
        seed: Of the arrivals; the same for all policies that are compared.

    Raises:
        TraceError: the trace is too long for such steps.
    """
    arrivals = trace.arrivals(step_s, seed)
    rates = trace.mean_rates(step_s)
    steps = len(arrivals)
    scaler = policy.autoscaler
    capacity_per_s = policy.replica.concurrency / measured.steady_s
    replicas = _initial(policy, capacity_per_s, trace)
    autoscaler = Autoscaler(policy, trace.begin, trace.seconds, replicas)
    pods = Pods(policy, measured, replicas)
    queue = Queue(policy.replica, measured, step_s)
    places = policy.replica.concurrency
    scrapes = Scrapes(scaler, step_s, _before(trace, measured, replicas * places))
    sync, poll = _every(scaler.sync_period_s, step_s), _every(policy.keda.polling_interval_s, step_s)
    wanted, serving, paid = (np.zeros(steps, np.int64) for _ in range(3))
    backlog, lost = np.zeros(steps), np.zeros(steps)
    gave_up = 0.0
    for step, count in enumerate(arrivals.tolist()):
        now_s = step * step_s
        fresh = pods.advance(now_s)
        seen = scrapes.look(now_s)
        before = target = pods.total
        if step % poll == 0:
            target = autoscaler.poll(now_s, target, max(seen.pending, queue.backlog + queue.in_flight))
        if step % sync == 0 and target == before:  # what KEDA has just set, the other controller sees a period later
            cpu = partial(pods.cpu_sample, now_s, seen.time_s, seen.busy * policy.replica.cpu_when_busy)
            target = autoscaler.sync(now_s, target, Seen(seen.pending, cpu))
        if target != before:
            pods.scale(now_s, target)
        queue.step(count, pods.serving, fresh)
        scrapes.add(queue.backlog, queue.in_flight, pods.serving * places)
        gave_up += queue.heads[-1] - queue.served_to[-1]
        wanted[step], serving[step], paid[step] = target, pods.serving, pods.paid(now_s)
        backlog[step], lost[step] = queue.backlog, gave_up + queue.lost_at_once
    cold_extra_s = measured.first_s - measured.steady_s if measured.first_is_cold else 0.0
    return Run(
        step_s=step_s,
        arrivals=arrivals,
        rates=rates,
        wanted=wanted,
        serving=serving,
        paid=paid,
        backlog=backlog,
        cold=np.asarray(queue.cold),
        lost=lost,
        capacity_per_s=capacity_per_s,
        waiting=round(queue.backlog),
        gave_up_s=gave_up * policy.replica.timeout_s,
        waits=measure_waits(queue, step_s, serving, policy.replica.timeout_s, cold_extra_s),
    )


def _initial(policy: Policy, capacity_per_s: float, trace: Trace) -> int:
    rate = float(trace.rates[0])
    needed = math.ceil(rate / (capacity_per_s * INITIAL_USE)) if rate > 0 else 0
    floor = Autoscaler(policy, trace.begin, trace.seconds, 0).floor(0.0)
    return min(max(needed, floor, policy.autoscaler.min_replicas), policy.autoscaler.max_replicas)


def _before(trace: Trace, measured: Measured, places: int) -> Sample:
    """Return what a scrape before the begin would have seen, at the first rate."""
    busy = min(float(trace.rates[0]) * measured.steady_s, float(places))
    return Sample(0.0, busy, busy / max(1, places))


def _every(period_s: float, step_s: float) -> int:
    return max(1, round(period_s / step_s))
