"""The load of a scenario: a constant rate for as long as it takes, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from warmswap_loadtests.envoy import Envoy
from warmswap_loadtests.kubelet.clients import Clients, Stream
from warmswap_loadtests.open_loop import Record, run_open_loop
from warmswap_loadtests.payloads import Payload

LEAD_S: Final = 0.3
"""From the start of the thread to the first request."""


class Load:
    """Requests at a constant rate until ``finish``; for a ``with`` block.

    Attributes:
        start_s: When the first is due, on the clock ``time.monotonic``.
    """

    def __init__(
        self, envoy: Envoy, streams: Sequence[Stream], payload: Payload, rate_per_s: float, timeout_s: float
    ) -> None:
        """Prepare; see ``Clients``."""
        self._envoy, self._streams, self._payload = envoy, streams, payload
        self._rate_per_s, self._timeout_s = rate_per_s, timeout_s
        self._stop = threading.Event()
        self._extra = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="load")

    def __enter__(self) -> Self:
        """Start."""
        self.start_s = time.monotonic() + LEAD_S
        self._done: Future[list[Record[bytes]]] = self._pool.submit(asyncio.run, self._run())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; requests that are in work end first."""
        self._stop.set()
        self._pool.shutdown(wait=True)

    def volley(self, requests: int) -> None:
        """Let so many come at once, beside the others."""
        self._extra = requests

    def finish(self) -> Future[list[Record[bytes]]]:
        """Send nothing more; the result is there when all have ended."""
        self._stop.set()
        return self._done

    async def _run(self) -> list[Record[bytes]]:
        async with Clients(self._streams, self._envoy, self._payload, self._timeout_s) as send:
            return await run_open_loop(self._due_s(), send, timeout_s=2 * self._timeout_s, start_s=self.start_s)

    def _due_s(self) -> Iterator[float]:
        count = 0
        while not self._stop.is_set():
            yield count / self._rate_per_s
            count += 1
            extra, self._extra = self._extra, 0
            for _ in range(extra):
                yield (count - 1) / self._rate_per_s
