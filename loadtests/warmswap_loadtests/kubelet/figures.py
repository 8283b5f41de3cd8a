"""From what was recorded to figures and verdicts. Pure functions: a report can be made again from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from warmswap_loadtests.kubelet.clients import GATEWAY, KINDS, PLAIN, RETRYING
from warmswap_loadtests.kubelet.events import Kind
from warmswap_loadtests.kubelet.scenarios import Sort

IN_FLIGHT: Final = "in flight on the dead replica"
SENT_TO_DEAD: Final = "sent to the dead replica before its endpoint was gone"
ELSEWHERE: Final = "elsewhere"
PUBLISH_S: Final = 0.25
"""Envoy reads its file of endpoints a moment after it was written."""

ALLOWED: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    Sort.PLANNED: {},
    Sort.UNPLANNED: {PLAIN: (IN_FLIGHT, SENT_TO_DEAD), GATEWAY: (IN_FLIGHT, SENT_TO_DEAD), RETRYING: ()},
}
"""Sort of the scenario and kind of the client to what may be lost."""

Request = Mapping[str, Any]
Run = Mapping[str, Any]
Figures = dict[str, Any]


def summarise(run: Run) -> Figures:
    """Return the figures of one scenario.

    Args:
        run: As ``bench`` puts it together: what ``run.measure`` returns, and ``sort``.
    """
    requests, event_s = run["requests"], run["event_s"]
    failed = [request for request in requests if request["failure"] is not None]
    losses = [(request, whereabouts(request, run)) for request in failed]
    events = run["events"]
    figures: Figures = {
        "requests": len(requests),
        "failed": len(failed),
        "by_client": {
            kind: {
                "requests": sum(request["client"] == kind for request in requests),
                **{
                    place: sum(request["client"] == kind and where == place for request, where in losses)
                    for place in (IN_FLIGHT, SENT_TO_DEAD, ELSEWHERE)
                },
            }
            for kind in KINDS
        },
        "retried": sum(is_retried(request) for request in requests),
        "before": _latencies([request for request in requests if request["due_s"] < event_s]),
        "during": _latencies([request for request in requests if request["due_s"] >= event_s]),
        "time_to_ready_s": _spans(events, Kind.STARTED, Kind.READY, after_s=event_s),
        "drain_s": _spans(events, Kind.DELETED, Kind.GONE, after_s=event_s),
        "exit_codes": [code for pod in run["pods"] for code in pod["exit_codes"]],
        "probes_sent": run["probes_sent"],
        "probes_failed": run["probes_failed"],
    }
    figures["verdict"] = verdict(run["sort"], [(request["client"], where) for request, where in losses])
    return figures


def verdict(sort: str, losses: Sequence[tuple[str, str]]) -> str:
    """Return what is wrong with the losses of a scenario; empty = they are as they should be.

    Args:
        sort: Of the scenario.
        losses: Kind of client and whereabouts of each lost request.
    """
    if sort == Sort.NAIVE:
        return "" if losses else "lost nothing: this harness would not see a loss, or the load was too low"
    wrong = [(client, where) for client, where in losses if where not in ALLOWED[sort].get(client, ())]
    if not wrong:
        return ""
    words = ", ".join(f"{client}: {where}" for client, where in sorted(set(wrong)))
    return f"lost {len(wrong)} that should not be lost ({words})"


def whereabouts(request: Request, run: Run) -> str:
    """Return where a lost request was when it was lost.

    Args:
        request: As ``described_requests`` has it.
        run: Its ``faults`` (pod to the time at which something was done to it) and ``events``.
    """
    attempts = request["attempts"]
    last: Mapping[str, Any] = attempts[-1] if attempts else {"pod": None}
    if last["pod"] not in run["faults"]:
        return ELSEWHERE
    fault_s = float(run["faults"][last["pod"]])
    if float(last["sent_s"]) <= fault_s:
        return IN_FLIGHT
    unrouted = [float(e["time_s"]) for e in run["events"] if e["kind"] == Kind.UNROUTED and e["pod"] == last["pod"]]
    end_s = min((time_s for time_s in unrouted if time_s > fault_s), default=float("inf"))
    return SENT_TO_DEAD if float(last["sent_s"]) <= end_s + PUBLISH_S else ELSEWHERE


def is_retried(request: Request) -> bool:
    """Whether it was sent more than once, by the client or by Envoy."""
    return len(request["attempts"]) > 1 or any(attempt["tries"] > 1 for attempt in request["attempts"])


def _latencies(requests: Sequence[Request]) -> Figures:
    values = [request["latency_ms"] for request in requests if request["failure"] is None]
    if not values:
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50_ms": round(float(p50), 1), "p99_ms": round(float(p99), 1), "max_ms": max(values)}


def _spans(events: Sequence[Mapping[str, Any]], first: Kind, last: Kind, *, after_s: float) -> list[float]:
    """Return the seconds from one kind of event of a pod to the next of another kind."""
    spans: list[float] = []
    begun: dict[str, float] = {}
    for event in events:
        if event["kind"] == first and event["time_s"] >= after_s:
            begun[event["pod"]] = event["time_s"]
        elif event["kind"] == last and event["pod"] in begun:
            spans.append(round(event["time_s"] - begun.pop(event["pod"]), 2))
    return spans
