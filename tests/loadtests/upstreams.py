"""Tiny HTTP servers in a thread, to put behind a load balancer."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

from warmswap_loadtests.envoy_config import Endpoint

HOST = "127.0.0.1"
PROBE = "/ready"


class Upstream:
    """Answers anything with its address after a while; ``is_ready`` is what its probe says."""

    def __init__(self, takes_s: float = 0.005) -> None:
        self.is_ready = True
        self.answered = 0
        self._takes_s = takes_s
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self.stop()

    def stop(self) -> None:
        """Close all connections at once, whatever is in work."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _serve(self) -> None:
        application = web.Application()
        application.router.add_route("*", PROBE, self._probe)
        application.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0)
        await site.start()
        self.endpoint = Endpoint(HOST, self._runner.addresses[0][1])

    async def _probe(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.is_ready else 400)

    async def _answer(self, _: web.Request) -> web.Response:
        await asyncio.sleep(self._takes_s)
        self.answered += 1
        return web.Response(text=self.endpoint.address)
