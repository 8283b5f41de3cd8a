"""What is counted, from what was recorded of one set-up. Pure functions; a request is as in ``described_requests``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from warmswap_loadtests.avalanche.scenario import SCALE_OUT
from warmswap_loadtests.avalanche.sending import NO_ANSWER

FIRST_REQUESTS: Final = 5
"""Of a replica that was started in the run: those that may be served cold."""
COLD_FACTOR: Final = 2.0
"""Of the steady median: what takes longer was served cold."""

Request = Mapping[str, Any]
Figures = dict[str, Any]


def summarise(requests: Sequence[Request], events: Sequence[Mapping[str, Any]], phases: Mapping[str, float]) -> Figures:
    """Return the figures of one set-up.

    Args:
        requests: In the order in which they were due.
        events: ``time_s``, ``kind``, ``replica``, ``detail``.
        phases: When each phase begins, in seconds after the start.
    """
    names = [_phase(request["due_s"], phases) for request in requests]
    by_phase = {
        phase: _phase_figures([request for request, name in zip(requests, names, strict=True) if name == phase])
        for phase in phases
    }
    steady_ms = _steady_median_ms(requests, events, phases)
    replicas = _replicas(requests, events, steady_ms)
    firsts = [request for replica in replicas for request in _firsts(requests, replica["name"])]
    early = {id(request) for request in firsts}
    others = [r for r in requests if id(r) not in early and r["due_s"] >= phases[SCALE_OUT]]
    return {
        **_phase_figures(requests),
        "phases": by_phase,
        "steady_median_ms": steady_ms,
        "cold": _slow(firsts, steady_ms),
        "others_as_slow": _slow(others, steady_ms),
        "retried": sum(r["attempts"] > 1 for r in requests),
        "replicas": replicas,
        "killed_in_work": [event["detail"] for event in events if event["kind"] == "SIGKILL"],
    }


def cold_requests(
    requests: Sequence[Request], events: Sequence[Mapping[str, Any]], steady_ms: float | None
) -> list[Request]:
    """Return the requests that were served cold."""
    names = [event["replica"] for event in events if event["kind"] == "exec"]
    return [request for name in names for request in _firsts(requests, name) if _is_slow(request, steady_ms)]


def _phase(time_s: float, phases: Mapping[str, float]) -> str:
    return [name for name, start_s in phases.items() if start_s <= time_s][-1]


def _phase_figures(requests: Sequence[Request]) -> Figures:
    """Those that failed have no latency, but one that timed out took at least as long as its time-out."""
    waited = [r["latency_ms"] for r in requests if r["failure"] in (None, NO_ANSWER)]
    p50, p99 = np.percentile(waited, (50, 99)) if waited else (None, None)
    return {
        "requests": len(requests),
        "failed": sum(r["failure"] is not None for r in requests),
        "p50_ms": _round(p50),
        "p99_ms": _round(p99),
        "max_ms": _round(max(waited, default=None)),
        "kinds": dict(Counter(r["failure"] for r in requests if r["failure"])),
    }


def _steady_median_ms(
    requests: Sequence[Request], events: Sequence[Mapping[str, Any]], phases: Mapping[str, float]
) -> float | None:
    """Return the median at the rate of the spike while the first replica is alone; where that is too short, before it.

    New replicas are not running yet, so this is what a warm replica does with this load.
    """
    first_exec_s = min((e["time_s"] for e in events if e["kind"] == "exec"), default=float("inf"))
    alone = [r for r in requests if phases[SCALE_OUT] <= r["due_s"] < first_exec_s]
    if len(alone) < 2 * FIRST_REQUESTS:
        alone = [r for r in requests if r["due_s"] < phases[SCALE_OUT]]
    answered = [r["latency_ms"] for r in alone if r["failure"] is None]
    return _round(float(np.median(answered))) if answered else None


def _firsts(requests: Sequence[Request], replica: str) -> list[Request]:
    given = [r for r in requests if r["replica"] == replica and r["sent_s"] is not None]
    return sorted(given, key=lambda request: float(request["sent_s"]))[:FIRST_REQUESTS]


def _slow(requests: Sequence[Request], steady_ms: float | None) -> Figures:
    if steady_ms is None:
        return {"requests": len(requests), "slow": None, "share": None}
    slow = sum(_is_slow(request, steady_ms) for request in requests)
    return {"requests": len(requests), "slow": slow, "share": round(slow / len(requests), 4) if requests else None}


def _is_slow(request: Request, steady_ms: float | None) -> bool:
    """A request that got no answer in time was slow; one that was refused at once was not."""
    if steady_ms is None or request["latency_ms"] is None:
        return False
    return float(request["latency_ms"]) > COLD_FACTOR * steady_ms


def _replicas(
    requests: Sequence[Request], events: Sequence[Mapping[str, Any]], steady_ms: float | None
) -> list[Figures]:
    """Return the replicas that were started in the run."""
    rows: list[Figures] = []
    for start in (event for event in events if event["kind"] == "exec"):
        name, exec_s = start["replica"], start["time_s"]
        times = {event["kind"]: event["time_s"] for event in events if event["replica"] == name}
        firsts = _firsts(requests, name)
        given = [r for r in requests if r["replica"] == name]
        ends = [r["due_s"] + r["latency_ms"] / 1e3 for r in given if r["failure"] is None]
        rows.append(
            {
                "name": name,
                "ordered_s": _round(times.get("ordered"), 3),
                "exec_s": _round(exec_s, 3),
                "exec_to_rotation_s": _since(exec_s, times.get("in rotation")),
                "exec_to_first_answer_s": _since(exec_s, min(ends, default=None)),
                "first_request_ms": firsts[0]["latency_ms"] if firsts else None,
                "slowest_of_first_ms": max((r["latency_ms"] for r in firsts if r["latency_ms"]), default=None),
                "cold": _slow(firsts, steady_ms)["slow"],
                "requests": len(given),
            }
        )
    return rows


def _since(start_s: float, time_s: float | None) -> float | None:
    return None if time_s is None else round(time_s - start_s, 3)


def _round(value: Any, digits: int = 1) -> float | None:
    return None if value is None else round(float(value), digits)
