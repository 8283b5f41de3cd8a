"""A floor by the clock: KEDA's cron trigger.

Source: keda.sh/docs, "Cron" scaler; kedacore/keda pkg/scalers/cron_scaler.go: a trigger is active while its next end
comes before its next start, and wants one replica otherwise. Expressions are read by croniter, whose days with a change
of the clock are those of cron: what falls into the hour that is left out happens at its end, while KEDA's own library
leaves it out that day.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from croniter import croniter  # type: ignore[import-untyped]

from warmswap_loadtests.scaling.errors import PolicyError


@dataclass(frozen=True, slots=True)
class CronTrigger:
    """So many replicas between two times of the clock.

    Attributes:
        timezone: Of the IANA database.
        start: When it begins: minute, hour, day of month, month, day of week.
        end: When it ends.
        replicas: How many.
    """

    timezone: str
    start: str
    end: str
    replicas: int

    def __post_init__(self) -> None:
        """Refuse what KEDA would refuse.

        Raises:
            PolicyError: it would.
        """
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise PolicyError(f"cron: {self.timezone!r} is no time zone of the IANA database") from error
        for name, expression in (("start", self.start), ("end", self.end)):
            if len(expression.split()) != 5 or not croniter.is_valid(expression):
                raise PolicyError(
                    f"cron: {name} = {expression!r} is no cron expression of five fields "
                    "(minute, hour, day of month, month, day of week)"
                )
        if self.start == self.end:
            raise PolicyError(f"cron: start and end are both {self.start!r}, and must differ")
        if self.replicas < 1:
            raise PolicyError(f"cron: replicas must be 1 or more, got {self.replicas}")


class CronWindow:
    """When a trigger is active within a span of time."""

    def __init__(self, trigger: CronTrigger, begin: datetime, end: datetime) -> None:
        """Find all starts and ends from ``begin`` on, and the first of each after ``end``."""
        self._starts = list(_times(trigger.start, trigger.timezone, begin, end))
        self._ends = list(_times(trigger.end, trigger.timezone, begin, end))

    def active(self, now: datetime) -> bool:
        """Return whether the trigger is active; a start counts from its second on, an end until just before its own."""
        now_s = now.timestamp()
        next_start_s = _after(self._starts, now_s)
        next_end_s = _after(self._ends, now_s)
        return next_end_s <= next_start_s and next_end_s != float("inf")


def _times(expression: str, timezone: str, begin: datetime, end: datetime) -> Iterator[float]:
    """Yield POSIX times from a moment before ``begin`` to the first after ``end``."""
    zone = ZoneInfo(timezone)
    times = croniter(
        expression, (begin - timedelta(seconds=1)).astimezone(zone), ret_type=datetime, max_years_between_matches=8
    )
    end_s = end.timestamp()
    while True:
        try:
            time_s = times.get_next(datetime).astimezone(UTC).timestamp()
        except ValueError:  # such as 30 February
            return
        yield time_s
        if time_s > end_s:
            return


def _after(times_s: list[float], now_s: float) -> float:
    place = bisect.bisect_right(times_s, now_s)
    return times_s[place] if place < len(times_s) else float("inf")
