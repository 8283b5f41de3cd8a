"""What state each pod was in, and when: from events to bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from warmswap_loadtests.kubelet.events import Kind

PENDING: Final = "pending, or ended"
STARTING: Final = "starting, or unready"
READY: Final = "ready"
TERMINATING: Final = "terminating"
_AFTER: Final = {
    Kind.CREATED: PENDING,
    Kind.STARTED: STARTING,
    Kind.READY: READY,
    Kind.NOT_READY: STARTING,
    Kind.DELETED: TERMINATING,
    Kind.EXITED: PENDING,
    Kind.GONE: None,
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A pod was in a state for a while."""

    state: str
    begin_s: float
    end_s: float


def pod_bars(events: Sequence[Mapping[str, Any]], pod: str, seconds: float) -> list[Bar]:
    """Return the states of a pod within the run, in order."""
    bars: list[Bar] = []
    state: str | None = None
    since_s, deleted = 0.0, False
    for event in (event for event in events if event["pod"] == pod and Kind(event["kind"]) in _AFTER):
        after = _AFTER[Kind(event["kind"])]
        if deleted and after is not None:
            continue
        deleted = deleted or after == TERMINATING
        _close(bars, state, since_s, min(event["time_s"], seconds))
        state, since_s = after, event["time_s"]
    _close(bars, state, since_s, seconds)
    return bars


def traffic_spans(events: Sequence[Mapping[str, Any]], pod: str, seconds: float) -> list[tuple[float, float]]:
    """Return from when to when the load balancer knew a pod."""
    spans: list[tuple[float, float]] = []
    begin_s: float | None = None
    for event in events:
        if event["pod"] == pod and event["kind"] == Kind.ROUTED:
            begin_s = event["time_s"]
        if event["pod"] == pod and event["kind"] == Kind.UNROUTED and begin_s is not None:
            spans.append((max(0.0, begin_s), event["time_s"]))
            begin_s = None
    if begin_s is not None:
        spans.append((max(0.0, begin_s), seconds))
    return spans


def _close(bars: list[Bar], state: str | None, begin_s: float, end_s: float) -> None:
    begin_s = max(0.0, begin_s)
    if state is not None and end_s > begin_s:
        bars.append(Bar(state, begin_s, end_s))
