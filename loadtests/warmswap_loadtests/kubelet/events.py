"""What happened to a pod, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What can happen; the values stand in reports."""

    CREATED = "created"
    STARTED = "container started"
    STARTUP_OK = "startup probe ok"
    READY = "ready"
    NOT_READY = "not ready"
    ROUTED = "endpoint added"
    UNROUTED = "endpoint removed"
    DELETED = "deleted"
    KILLING = "liveness failed"
    PRE_STOP = "preStop"
    SIGTERM = "SIGTERM"
    SIGKILL = "SIGKILL"
    FAULT = "fault"
    EXITED = "container ended"
    BACK_OFF = "back-off"
    GONE = "gone"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, in seconds after the start of the load; an empty pod = to all of them."""

    time_s: float
    kind: Kind
    pod: str
    detail: str = ""


@dataclass(slots=True)
class EventLog:
    """All events of a run; those before ``start_s`` have negative times."""

    start_s: float = 0.0
    events: list[Event] = field(default_factory=list)

    def add(self, now_s: float, kind: Kind, pod: str = "", detail: str = "") -> None:
        """Note an event at a time on the clock ``time.monotonic``."""
        self.events.append(Event(now_s, kind, pod, detail))

    def since_start(self) -> list[Event]:
        """Return the events in order, in seconds after the start."""
        return [
            Event(round(event.time_s - self.start_s, 3), event.kind, event.pod, event.detail)
            for event in sorted(self.events, key=lambda event: event.time_s)
        ]
