"""The formula of the HorizontalPodAutoscaler, as its controller computes it.

Sources: kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale ("Algorithm details") and
kubernetes/kubernetes pkg/controller/podautoscaler/replica_calculator.go (``GetResourceReplicas``,
``GetExternalPerPodMetricReplicas``), metrics/utilization.go (the utilisation is a whole percentage, cut off).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

DEFAULT_TOLERANCE: Final = 0.1
WHOLE: Final = 1e-9
"""A quotient this little above a whole number is that number: the controller counts in whole thousandths."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a ratio may be from 1 before something is done (``behavior.scaleUp.tolerance``, Kubernetes 1.33)."""

    up: float = DEFAULT_TOLERANCE
    down: float = DEFAULT_TOLERANCE

    def holds(self, ratio: float) -> bool:
        """Return whether nothing is to be done."""
        return 1.0 - self.down - WHOLE <= ratio <= 1.0 + self.up + WHOLE


@dataclass(frozen=True, slots=True)
class CpuSample:
    """What the controller knows of the pods when it scales on CPU.

    Attributes:
        busy: Sum over the ready pods of use by request, 1.0 = a pod uses what it requests.
        ready: Pods whose sample counts.
        unready: Pods set aside: pending, not ready yet, or ready after their last sample.
        missing: Pods that run and have no sample.
    """

    busy: float
    ready: int
    unready: int = 0
    missing: int = 0


def round_up(value: float) -> int:
    """Return the next whole number, forgiving what binary fractions add."""
    return math.ceil(value - WHOLE)


def ratio_replicas(current: int, ratio: float, tolerance: Tolerance) -> int:
    """Return ceil(current * ratio), or ``current`` if the ratio is within the tolerance."""
    return current if tolerance.holds(ratio) else round_up(current * ratio)


def average_value_replicas(current: int, total: float, target: float, tolerance: Tolerance) -> int:
    """Return the replicas for an external metric with an ``AverageValue`` target.

    Args:
        current: Replicas in the status of the target, ready or not.
        total: The metric, summed.
        target: Of it, what one replica should have.
        tolerance: Compared with ``total / (target * current)``; without replicas nothing is tolerated.
    """
    if current > 0 and tolerance.holds(total / (target * current)):
        return current
    return round_up(total / target)


def cpu_replicas(current: int, sample: CpuSample, target_percent: int, tolerance: Tolerance) -> int | None:
    """Return the replicas for CPU utilisation, or ``None`` if no ready pod has a sample.

    Pods set aside count as idle if the others ask for more. Pods without a sample count as idle then too, and as fully
    busy (or as busy as the target, if that is above 100 %) if the others ask for fewer. If that turns the direction
    around, nothing changes.
    """
    if sample.ready == 0:
        return None
    ratio = _percent(sample.busy, sample.ready) / target_percent
    more_with_unready = sample.unready > 0 and ratio > 1.0
    if not more_with_unready and sample.missing == 0:
        return current if tolerance.holds(ratio) else round_up(ratio * sample.ready)
    busy, pods = sample.busy, sample.ready
    if sample.missing and ratio != 1.0:
        pods += sample.missing
        busy += sample.missing * max(100, target_percent) / 100.0 if ratio < 1.0 else 0.0
    if more_with_unready:
        pods += sample.unready
    new_ratio = _percent(busy, pods) / target_percent
    if tolerance.holds(new_ratio) or (ratio < 1.0 < new_ratio) or (new_ratio < 1.0 < ratio):
        return current
    replicas = round_up(new_ratio * pods)
    if (new_ratio < 1.0 and replicas > current) or (new_ratio > 1.0 and replicas < current):
        return current
    return replicas


def highest(current: int, wanted: list[int | None]) -> int:
    """Return the largest answer of several metrics.

    One that has no answer (``None``) forbids scaling down, not up.
    """
    known = [replicas for replicas in wanted if replicas is not None]
    if not known:
        return current
    largest = max(known)
    return max(current, largest) if len(known) < len(wanted) else largest


def _percent(busy: float, pods: int) -> int:
    return int(100.0 * busy / pods + WHOLE)
