"""When would a Kubernetes Service route to a replica? Probes as the kubelet makes them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import aiohttp

PROBE_PERIOD_S: Final = 0.1
PROBE_TIMEOUT_S: Final = 1.0
FAILURE_THRESHOLD: Final = 3
"""The kubelet's defaults, but for the period (10 s there): one success routes, three failures in a row do not."""


@dataclass(slots=True)
class ReadinessProbe:
    """Asks a server whether it is live, until it is, and whether it is ready, for ever. Each probe is a new connection.

    Attributes:
        live_url: Answers 200 while the server lives.
        ready_url: Answers 200 while the server wants requests.
        start_s: The start on the clock ``time.monotonic``; all other times count from it.
        period_s: From one probe to the next.
        is_ready: Whether requests are routed there now.
        live_s: When it was first seen live.
        ready_s: When it was first seen ready.
        changes: When it became ready or not ready.
    """

    live_url: str
    ready_url: str
    start_s: float
    period_s: float = PROBE_PERIOD_S
    is_ready: bool = False
    live_s: float | None = None
    ready_s: float | None = None
    changes: list[tuple[float, bool]] = field(default_factory=list)
    _failures: int = 0

    async def run(self) -> None:
        """Probe until cancelled."""
        connector = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            while True:
                if self.live_s is None and await _is_ok(session, self.live_url):
                    self.live_s = self._now_s()
                self._take(await _is_ok(session, self.ready_url))
                now_s = self._now_s()
                await asyncio.sleep(self.period_s - now_s % self.period_s)

    def _take(self, is_ok: bool) -> None:
        now_s = self._now_s()
        self._failures = 0 if is_ok else self._failures + 1
        if is_ok and not self.is_ready:
            self.is_ready = True
            self.ready_s = now_s if self.ready_s is None else self.ready_s
            self.changes.append((now_s, True))
        elif self.is_ready and self._failures >= FAILURE_THRESHOLD:
            self.is_ready = False
            self.changes.append((now_s, False))

    def _now_s(self) -> float:
        return time.monotonic() - self.start_s


async def _is_ok(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            return response.status == 200
    except (aiohttp.ClientError, OSError):  # a time-out is an OSError
        return False
