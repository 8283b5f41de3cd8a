"""The control loops, period after period: KEDA between zero and one, the HorizontalPodAutoscaler above."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from warmswap_loadtests.scaling.behaviour import Behaviour
from warmswap_loadtests.scaling.cron import CronWindow
from warmswap_loadtests.scaling.hpa import CpuSample, Tolerance, average_value_replicas, cpu_replicas, highest
from warmswap_loadtests.scaling.keda import Activation
from warmswap_loadtests.scaling.policy import Metric, Policy


@dataclass(frozen=True, slots=True)
class Seen:
    """What the last scrape saw.

    Attributes:
        pending: Requests that wait or are in work, mean since the scrape before.
        cpu: What there is to know of CPU, asked for only if a metric needs it.
    """

    pending: float
    cpu: Callable[[], CpuSample]


class Autoscaler:
    """One workload's."""

    def __init__(self, policy: Policy, begin: datetime, seconds: float, replicas: int) -> None:
        """Begin with so many replicas, for a trace that is so long."""
        self._policy = policy
        self._begin = begin
        end = begin + timedelta(seconds=seconds)
        self._windows = [(CronWindow(trigger, begin, end), trigger.replicas) for trigger in policy.cron]
        up, down = policy.scale_up.tolerance, policy.scale_down.tolerance
        usual = policy.autoscaler.tolerance
        self._tolerance = Tolerance(usual if up is None else up, usual if down is None else down)
        self._behaviour = Behaviour(policy.scale_up, policy.scale_down)
        self._behaviour.remember(0.0, replicas)
        self._activation = Activation(policy.keda, policy.autoscaler.min_replicas)
        self._least = max(1, policy.autoscaler.min_replicas)

    def poll(self, now_s: float, replicas: int, pending: float) -> int:
        """Return the replicas after KEDA's look; ``pending`` as of the last scrape, or now if more."""
        active = any(metric.kind == "pending" and pending > metric.activation for metric in self._policy.metric)
        active = active or any(window.active(self._clock(now_s)) for window, _ in self._windows)
        return self._activation.poll(now_s, replicas, active)

    def sync(self, now_s: float, replicas: int, seen: Seen) -> int:
        """Return the replicas after a period of the HorizontalPodAutoscaler, which does nothing at zero."""
        most = self._policy.autoscaler.max_replicas
        if replicas == 0:
            return 0
        if replicas > most or replicas < self._least:
            return min(max(replicas, self._least), most)
        wanted = [self._wanted(metric, replicas, seen) for metric in self._policy.metric]
        wanted += self._floors(now_s, replicas)
        return self._behaviour.decide(now_s, replicas, highest(replicas, wanted), self._least, most)

    def floor(self, now_s: float) -> int:
        """Return what the clock asks for."""
        moment = self._clock(now_s)
        return max((replicas for window, replicas in self._windows if window.active(moment)), default=0)

    def _floors(self, now_s: float, replicas: int) -> Sequence[int]:
        moment = self._clock(now_s)
        wanted = (floor if window.active(moment) else 1 for window, floor in self._windows)
        return [average_value_replicas(replicas, value, 1.0, self._tolerance) for value in wanted]

    def _wanted(self, metric: Metric, replicas: int, seen: Seen) -> int | None:
        if metric.kind == "cpu":
            return cpu_replicas(replicas, seen.cpu(), round(metric.target), self._tolerance)
        return average_value_replicas(replicas, seen.pending, metric.target, self._tolerance)

    def _clock(self, now_s: float) -> datetime:
        return self._begin + timedelta(seconds=now_s)
