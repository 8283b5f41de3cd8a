"""``behavior`` of the HorizontalPodAutoscaler: stabilisation windows and speed limits.

Source: kubernetes/kubernetes pkg/controller/podautoscaler/horizontal.go (``stabilizeRecommendationWithBehaviors``,
``convertDesiredReplicasWithBehaviorRate``, ``getReplicasChangePerPeriod``); the defaults are those documented at
kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale ("Default Behavior").
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from warmswap_loadtests.scaling.hpa import round_up

SELECT_POLICIES: Final = ("Max", "Min", "Disabled")


@dataclass(frozen=True, slots=True)
class RatePolicy:
    """A speed limit: so many pods, or per cent of the pods at its beginning, within a period.

    Attributes:
        type: ``Pods`` or ``Percent``.
        value: How many.
        period_s: Length of the period that the limit looks back.
    """

    type: Literal["Pods", "Percent"]
    value: int
    period_s: int = 15


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """One direction.

    Attributes:
        stabilization_window_s: The most careful recommendation within it holds.
        select_policy: Which limit holds: ``Max`` the one that allows most, ``Min`` least; ``Disabled`` allows nothing.
        policies: The limits.
        tolerance: ``None`` = that of the cluster.
    """

    stabilization_window_s: float = 0.0
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    policies: tuple[RatePolicy, ...] = (RatePolicy("Percent", 100), RatePolicy("Pods", 4))
    tolerance: float | None = None


DEFAULT_UP: Final = ScalingRules()
DEFAULT_DOWN: Final = ScalingRules(300.0, "Max", (RatePolicy("Percent", 100),))


class Behaviour:
    """What the controller remembers of its recommendations and of what it did."""

    def __init__(self, up: ScalingRules = DEFAULT_UP, down: ScalingRules = DEFAULT_DOWN) -> None:
        """Remember nothing yet."""
        self._up = up
        self._down = down
        self._recommendations: deque[tuple[float, int]] = deque()
        self._events: deque[tuple[float, int]] = deque()
        self._memory_s = max(up.stabilization_window_s, down.stabilization_window_s)
        self._events_memory_s = max((limit.period_s for limit in (*up.policies, *down.policies)), default=0)

    def remember(self, now_s: float, replicas: int) -> None:
        """Take the replicas that are there as the first recommendation, as the controller does when it starts."""
        self._recommendations.append((now_s, replicas))

    def decide(self, now_s: float, current: int, wanted: int, least: int, most: int) -> int:
        """Return the replicas to set now, and remember both.

        Args:
            now_s: Any clock that does not go back.
            current: Replicas that are asked for now.
            wanted: What the metrics say.
            least: ``minReplicas``.
            most: ``maxReplicas``.
        """
        decided = self._limited(now_s, current, self._stabilised(now_s, current, wanted), least, most)
        if decided != current:
            self._events.append((now_s, decided - current))
        return decided

    def _stabilised(self, now_s: float, current: int, wanted: int) -> int:
        recommendations = self._recommendations
        while recommendations and recommendations[0][0] < now_s - self._memory_s:
            recommendations.popleft()
        least_up = most_down = wanted
        for time_s, replicas in recommendations:
            if time_s > now_s - self._up.stabilization_window_s:
                least_up = min(least_up, replicas)
            if time_s > now_s - self._down.stabilization_window_s:
                most_down = max(most_down, replicas)
        recommendations.append((now_s, wanted))
        return min(max(current, least_up), most_down)

    def _limited(self, now_s: float, current: int, wanted: int, least: int, most: int) -> int:
        while self._events and self._events[0][0] <= now_s - self._events_memory_s:
            self._events.popleft()
        if wanted > current:
            ceiling = max(current, _select(self._up, (self._up_limit(now_s, current, p) for p in self._up.policies), 1))
            return min(wanted, most, current if self._up.select_policy == "Disabled" else ceiling)
        if wanted < current:
            limits = (self._down_limit(now_s, current, policy) for policy in self._down.policies)
            floor = min(current, _select(self._down, limits, -1))
            return max(wanted, least, current if self._down.select_policy == "Disabled" else floor)
        return wanted

    def _up_limit(self, now_s: float, current: int, limit: RatePolicy) -> int:
        start = current - self._change(now_s, limit.period_s)
        return start + limit.value if limit.type == "Pods" else round_up(start * (1.0 + limit.value / 100.0))

    def _down_limit(self, now_s: float, current: int, limit: RatePolicy) -> int:
        start = current - self._change(now_s, limit.period_s)
        return start - limit.value if limit.type == "Pods" else math.floor(start * (1.0 - limit.value / 100.0) + 1e-9)

    def _change(self, now_s: float, period_s: float) -> int:
        return sum(change for time_s, change in self._events if time_s > now_s - period_s)


def _select(rules: ScalingRules, limits: Iterable[int], direction: int) -> int:
    """Return the limit that allows the largest change (``Max``) or the smallest; without limits, one out of reach."""
    found = [direction * limit for limit in limits]
    if not found:
        return direction * 2**31
    return direction * (min(found) if rules.select_policy == "Min" else max(found))
