"""One request through the balancer, and which replica it went to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from warmswap_loadtests.contenders.wire import HttpSender, Wire
from warmswap_loadtests.envoy_config import ATTEMPTS_HEADER, REQUEST_HEADER, UPSTREAM_HEADER
from warmswap_loadtests.open_loop import Outcome, Record
from warmswap_loadtests.payloads import Payload, fresh_source

NO_ANSWER: Final = "no answer in time"
BROKEN: Final = "connection broken"
WRONG: Final = "not the picture"
_FLAGS: Final = {
    "UH": "503: no replica ready",
    "UF": "503: replica refused the connection",
    "UC": "503: replica broke the connection",
    "URX": "503: retries used up",
    "UO": "503: too much waiting",
    "UT": "504: replica too slow for Envoy",
}
"""Envoy's response flags, for what it answered itself."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: the picture, from which replica (``host:port``), after how many attempts."""

    picture: bytes
    upstream: str
    attempts: int


@dataclass(slots=True)
class BalancedSender:
    """Sends swaps through Envoy; a ``Send`` of ``open_loop``.

    Attributes:
        session: Connections to Envoy.
        url: ``http://host:port`` of Envoy.
        wire: The form of the replicas behind it.
        payload: What every request holds; each brings a source that no cache knows.
    """

    session: aiohttp.ClientSession
    url: str
    wire: Wire
    payload: Payload

    async def __call__(self, index: int) -> Answer:
        """Send the request of a number and return what is known of the answer.

        Raises:
            RequestFailedError: no picture came back.
        """
        wire = _TracedWire(self.wire, index)
        picture = await HttpSender(self.session, self.url, wire, lambda _: fresh_source(self.payload, index))(index)
        headers = wire.headers
        return Answer(picture, headers.get(UPSTREAM_HEADER, ""), int(headers.get(ATTEMPTS_HEADER, "1")))


class _TracedWire:
    """Another wire, for one request: numbers it, and keeps the headers of its answer."""

    def __init__(self, wire: Wire, index: int) -> None:
        self.path = wire.path
        self.headers: Mapping[str, str] = {}
        self._wire, self._index = wire, index

    def encode(self, payload: Payload) -> tuple[bytes, Mapping[str, str]]:
        body, headers = self._wire.encode(payload)
        return body, {**headers, REQUEST_HEADER: str(self._index)}

    def decode(self, headers: Mapping[str, str], body: bytes) -> bytes:
        self.headers = headers
        return self._wire.decode(headers, body)


def described_requests(
    records: Sequence[Record[Answer]], access_log: Sequence[Mapping[str, Any]], replicas: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what became of every request, as it goes into the report.

    Args:
        records: As the client saw them.
        access_log: As Envoy saw them; it knows the replica of a request that the client has given up.
        replicas: Name of the replica at each ``host:port``.

    Returns:
        ``due_s``, ``sent_s``, ``latency_ms`` (from due to end), ``failure`` (what kind, ``None`` = answered) and its
        ``detail``, ``replica`` (the last that it was sent to, ``None`` = none) and ``attempts``.
    """
    seen = {int(entry["request"]): entry for entry in access_log if str(entry.get("request") or "").isdigit()}
    described: list[dict[str, Any]] = []
    for record in records:
        entry = seen.get(record.index, {})
        upstream = record.answer.upstream if record.answer else str(entry.get("upstream") or "")
        described.append(
            {
                "due_s": round(record.due_s, 4),
                "sent_s": None if record.sent_s is None else round(record.sent_s, 4),
                "latency_ms": None if record.latency_s is None else round(record.latency_s * 1e3, 1),
                "failure": _failure(record, entry),
                "detail": _detail(record, entry),
                "replica": replicas.get(upstream),
                "attempts": record.answer.attempts if record.answer else int(entry.get("attempts") or 0),
            }
        )
    return described


def _detail(record: Record[Answer], entry: Mapping[str, Any]) -> str:
    if record.outcome is Outcome.ANSWERED:
        return ""
    envoy = f"; Envoy: {entry.get('status')} {entry.get('flags')} {entry.get('details')}" if entry else ""
    return record.detail + envoy


def _failure(record: Record[Answer], entry: Mapping[str, Any]) -> str | None:
    if record.outcome is Outcome.ANSWERED:
        return None
    if record.outcome is Outcome.WRONG:
        return WRONG
    if record.outcome is Outcome.TIMED_OUT:
        return NO_ANSWER
    status = int(entry.get("status") or 0)
    if status in (0, 200):  # 200: its head came through, its body did not
        return BROKEN
    for flag in str(entry.get("flags")).split(","):
        if flag in _FLAGS:
            return _FLAGS[flag]
    return f"{status} from the replica"
