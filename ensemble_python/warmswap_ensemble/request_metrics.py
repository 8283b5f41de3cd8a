"""Was a request cold? The latencies of one pipeline instance, and the few figures that are worth a metric.

Setting a metric of Triton is a call to another process, so only what has changed is given out. Warm-up requests come
first and are not counted: no instance takes another request before they are answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

WINDOW: Final = 256
FIRST_REQUESTS: Final = 20
"""How many of an instance's first requests are judged, by their own median, once they are all answered."""
COLD_FACTOR: Final = 2.0
MEDIAN_INTERVAL: Final = 16
"""Requests between two looks at the median."""
MEDIAN_CHANGE: Final = 0.02
LAST_REQUEST_INTERVAL_S: Final = 1.0

FIRST: Final = "warmswap_first_request_seconds"
MEDIAN: Final = "warmswap_request_median_seconds"
COLD: Final = "warmswap_cold_requests_total"
LAST: Final = "warmswap_last_request_timestamp_seconds"
ERRORS: Final = "warmswap_request_errors_total"
"""By code. Triton 24.10 counts a request that a Python model answers with an error as a success."""


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """One metric family.

    Attributes:
        description: What it means.
        is_counter: Else it is a gauge.
        per_instance: Whether each instance has a series of its own, since the last one to set it would win.
    """

    description: str
    is_counter: bool
    per_instance: bool


FAMILIES: Final[Mapping[str, FamilySpec]] = {
    FIRST: FamilySpec("Time of the first request of an instance after its warm-up", False, True),
    MEDIAN: FamilySpec(f"Median time of the last {WINDOW} requests of an instance", False, True),
    COLD: FamilySpec(
        f"Requests among the first {FIRST_REQUESTS} of an instance that took over {COLD_FACTOR:g} times their median",
        True,
        False,
    ),
    LAST: FamilySpec("When the last request was answered, in seconds since 1970", False, False),
}


class RequestTimes:
    """The answered requests of one instance."""

    def __init__(self, warmups: int) -> None:
        """Start; the next ``warmups`` requests are not counted."""
        self._warmups = warmups
        self._seen = 0
        self._window: deque[float] = deque(maxlen=WINDOW)
        self._median_s = 0.0
        self._last_s = 0.0

    @property
    def is_warming_up(self) -> bool:
        """Whether the next request is one of the warm-up's."""
        return self._warmups > 0

    def add(self, seconds: float, now_s: float) -> list[tuple[str, float]]:
        """Take one answered request.

        Args:
            seconds: How long it took.
            now_s: Seconds since 1970.

        Returns:
            Metrics that change: a gauge's new value, a counter's increment.
        """
        if self._warmups:
            self._warmups -= 1
            return []
        self._seen += 1
        self._window.append(seconds)
        changes: list[tuple[str, float]] = []
        if self._seen == 1:
            changes.append((FIRST, seconds))
        if self._seen == FIRST_REQUESTS:
            limit_s = COLD_FACTOR * _median(self._window)
            changes.append((COLD, float(sum(value > limit_s for value in self._window))))
        if self._seen == 1 or self._seen % MEDIAN_INTERVAL == 0:
            median_s = _median(self._window)
            if abs(median_s - self._median_s) > MEDIAN_CHANGE * self._median_s:
                self._median_s = median_s
                changes.append((MEDIAN, median_s))
        if not 0 <= now_s - self._last_s < LAST_REQUEST_INTERVAL_S:  # the clock may have been set back
            self._last_s = now_s
            changes.append((LAST, now_s))
        return changes


def warmup_requests(samples: Sequence[Mapping[str, Any]]) -> int:
    """Return how many requests the ``model_warmup`` of a configuration sends to each instance."""
    return sum(max(1, sample.get("count", 0)) * sample.get("batch_size", 0) for sample in samples)


def _median(values: Collection[float]) -> float:
    """Return the middle value, the upper of two; ``statistics`` would take longer to import than a start can spare."""
    return sorted(values)[len(values) // 2]
