"""From zero to one and back: what KEDA's operator does and the HorizontalPodAutoscaler cannot.

Source: kedacore/keda pkg/scaling/executor/scale_scaledobjects.go; keda.sh/docs, "Scaling Deployments" and "ScaledObject
specification". Between one replica and the most, KEDA leaves the work to the HorizontalPodAutoscaler that it makes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KedaOptions:
    """Of a ScaledObject.

    Attributes:
        polling_interval_s: Between two looks at the triggers, for zero and one only.
        cooldown_period_s: How long all triggers must have been inactive before the last replicas go.
    """

    polling_interval_s: float = 30.0
    cooldown_period_s: float = 300.0


class Activation:
    """The state of one ScaledObject."""

    def __init__(self, options: KedaOptions, min_replicas: int) -> None:
        """Begin with a target that was never seen active."""
        self._options = options
        self._min_replicas = min_replicas
        self._last_active_s: float | None = None

    def poll(self, now_s: float, current: int, active: bool) -> int:
        """Return the replicas to set.

        Args:
            now_s: Any clock that does not go back.
            current: Replicas that are asked for now.
            active: Whether any trigger is above its activation threshold.
        """
        if active:
            self._last_active_s = now_s
            return max(1, self._min_replicas) if current == 0 else current
        if current == 0 or self._min_replicas > 0:
            return max(current, self._min_replicas)
        # A target that was never seen active was scaled by somebody else, and is taken down at once.
        if self._last_active_s is None or self._last_active_s + self._options.cooldown_period_s < now_s:
            return 0
        return current
