"""What autoscalers see of a workload: means between two scrapes, a little late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from warmswap_loadtests.scaling.policy import Scaler


@dataclass(frozen=True, slots=True)
class Sample:
    """What a scrape saw: means since the one before.

    Attributes:
        time_s: When it was taken.
        pending: Requests that waited or were in work.
        busy: Share of the places in service that were busy.
    """

    time_s: float
    pending: float
    busy: float


class Scrapes:
    """Takes a sample every ``scrape_s`` and shows it ``metrics_delay_s`` later."""

    def __init__(self, scaler: Scaler, step_s: float, first: Sample) -> None:
        """Begin with what a scrape before the begin would have seen."""
        self._every = max(1, round(scaler.scrape_s / step_s))
        self._delay_s = scaler.metrics_delay_s
        self._seen = first
        self._taken: deque[Sample] = deque()
        self._steps = 0
        self._pending = self._busy = self._places = 0.0

    def look(self, now_s: float) -> Sample:
        """Return the newest sample that can be read; to be called at the begin of each step."""
        if self._steps == self._every:
            busy = self._busy / self._places if self._places else 0.0
            self._taken.append(Sample(now_s, self._pending / self._steps, busy))
            self._steps = 0
            self._pending = self._busy = self._places = 0.0
        while self._taken and self._taken[0].time_s + self._delay_s <= now_s:
            self._seen = self._taken.popleft()
        return self._seen

    def add(self, waiting: float, in_work: float, places: int) -> None:
        """Add what is there at the end of a step; replicas that end still work, in places that are counted no more."""
        self._steps += 1
        self._pending += waiting + in_work
        self._busy += in_work
        self._places += max(places, in_work)
