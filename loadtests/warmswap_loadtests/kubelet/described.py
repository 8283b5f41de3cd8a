"""What became of each request, put together from what the client saw and what Envoy wrote down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from warmswap_loadtests.kubelet.clients import Stream
from warmswap_loadtests.open_loop import Outcome, Record

Request = dict[str, Any]


def described_requests(
    records: Sequence[Record[bytes]],
    stream_of: Callable[[int], Stream],
    access_log: Sequence[Mapping[str, Any]],
    pods: Mapping[str, str],
    epoch_s: float,
) -> list[Request]:
    """Return a row per request, as it goes into the report.

    Args:
        records: As the client saw them.
        stream_of: Whose request it was.
        access_log: As Envoy saw them; a row per attempt of the client.
        pods: Name of the pod at each ``host:port``.
        epoch_s: The start of the load on the clock ``time.time``.

    Returns:
        ``due_s``, ``latency_ms``, ``protocol``, ``client``, ``failure`` (the client's words, ``None`` = answered) and
        ``attempts``: a list of ``pod`` (``None`` = none), ``sent_s``, ``status``, ``flags`` (Envoy's response flags)
        and ``tries`` (of Envoy), in order.
    """
    attempts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in access_log:
        if str(entry.get("request") or "").isdigit():
            attempts[int(entry["request"])].append(
                {
                    "pod": pods.get(str(entry.get("upstream"))),
                    "sent_s": round(float(entry["started_s"]) - epoch_s, 3),
                    "status": entry.get("status"),
                    "flags": entry.get("flags") or "",
                    "tries": int(entry.get("attempts") or 0),
                }
            )
    rows: list[Request] = []
    for record in records:
        stream = stream_of(record.index)
        found = sorted(attempts[record.index], key=lambda attempt: float(attempt["sent_s"]))
        rows.append(
            {
                "due_s": round(record.due_s, 3),
                "latency_ms": None if record.latency_s is None else round(record.latency_s * 1e3, 1),
                "protocol": stream.protocol,
                "client": stream.kind,
                "failure": None if record.outcome is Outcome.ANSWERED else f"{record.outcome}: {record.detail}"[:300],
                "attempts": found,
            }
        )
    return rows
