"""The client for an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar, Unpack

from warmswap_client.client import DEFAULT_TIMEOUT_S
from warmswap_client.endpoint import DEFAULT_URL, parse_url
from warmswap_client.files import ImageSource
from warmswap_client.options import AnalyzeOptions, SwapOptions
from warmswap_client.plans import Planner
from warmswap_client.results import AnalysisResult, SwapResult
from warmswap_client.retry import DEFAULT_RETRY, RetryPolicy
from warmswap_client.status import ServerStatus
from warmswap_client.steps import Plan, run_async
from warmswap_client.tls import TlsFiles
from warmswap_client.transport import AsyncTransport, make_async_transport
from warmswap_ensemble.contract import FACE_SWAP

T = TypeVar("T")


class AsyncFaceSwapClient:
    """A warmswap server, for one event loop; otherwise as ``FaceSwapClient``.

    Usage:
        async with AsyncFaceSwapClient("grpc://127.0.0.1:8001") as client:
            result = await client.swap("source.jpg", "target.jpg")

    Pictures given as paths are read in the loop; hand over bytes if your disk is slow.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        tls: TlsFiles | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: AsyncTransport | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; see ``FaceSwapClient``. Needs no running loop."""
        endpoint = parse_url(url, tls)
        self._plans = Planner(endpoint.url, timeout_s, retry, clock)
        self._transport = make_async_transport(endpoint) if transport is None else transport
        self._sleep = sleep
        self._closed = False

    @property
    def url(self) -> str:
        """The server, with its port."""
        return self._plans.url

    async def swap(
        self,
        source: ImageSource,
        target: ImageSource,
        *,
        reference: ImageSource | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[SwapOptions],
    ) -> SwapResult:
        """Put the face of one picture into another; see ``FaceSwapClient.swap``."""
        return await self._run(self._plans.swap(source, target, reference, timeout_s, request_id, options))

    async def analyze(
        self,
        image: ImageSource,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[AnalyzeOptions],
    ) -> AnalysisResult:
        """Find the faces of a picture; see ``FaceSwapClient.analyze``."""
        return await self._run(self._plans.analyze(image, timeout_s, request_id, options))

    async def is_live(self) -> bool:
        """Whether the server runs; no answer is a no."""
        return await self._run(self._plans.is_live())

    async def is_ready(self, model: str = FACE_SWAP.name) -> bool:
        """Whether the model answers requests; no answer is a no."""
        return await self._run(self._plans.is_ready(model))

    async def status(self) -> ServerStatus:
        """Ask for versions, readiness and models; see ``FaceSwapClient.status``."""
        return await self._run(self._plans.status())

    async def wait_until_ready(self, timeout_s: float = DEFAULT_TIMEOUT_S, model: str = FACE_SWAP.name) -> None:
        """Return as soon as the model answers requests; see ``FaceSwapClient.wait_until_ready``."""
        await self._run(self._plans.wait_until_ready(timeout_s, model))

    async def close(self) -> None:
        """Give up the connection."""
        self._closed = True
        await self._transport.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the client."""
        await self.close()

    async def _run(self, plan: Plan[T]) -> T:
        if self._closed:
            raise RuntimeError("this client is closed")
        return await run_async(plan, self._transport, self._sleep)
