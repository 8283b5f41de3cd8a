"""Helpers of the client's tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from warmswap_client import AsyncFaceSwapClient, FaceSwapClient
from warmswap_client.fake_transport import FakeRequest, FakeTransport, Tensors, swap_answer

OpenClient = Callable[..., FaceSwapClient]


@dataclass
class FakeTime:
    """A clock that only moves when somebody sleeps."""

    now_s: float = 1000.0
    pauses: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class BlockingAsyncClient:
    """An ``AsyncFaceSwapClient`` in a loop of its own, with the interface of ``FaceSwapClient``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncFaceSwapClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await attribute(*args, **kwargs)

        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))

    def close(self) -> None:
        try:
            self._runner.run(self._client.close())
        finally:
            self._runner.close()


def open_any_client(
    kind: str, url: str, *, fake: FakeTransport | None = None, time: FakeTime | None = None, **kwargs: Any
) -> FaceSwapClient:
    """Open a synchronous or asynchronous client behind one interface."""
    if kind == "sync":
        if time is not None:
            kwargs |= {"sleep": time.sleep, "clock": time.clock}
        return FaceSwapClient(url, transport=fake, **kwargs)
    if time is not None:
        kwargs |= {"sleep": time.sleep_async, "clock": time.clock}
    transport = None if fake is None else fake.as_async()
    return cast(FaceSwapClient, BlockingAsyncClient(url, transport=transport, **kwargs))


def answer_all(request: FakeRequest) -> Tensors:
    """A handler that swaps whatever it is given."""
    return swap_answer(b"swapped " + request.inputs["target_image"])


def fail_first(count: int, status: str, message: str) -> Callable[[FakeRequest], Tensors]:
    """A handler that fails a number of times and then answers."""
    failures = [(status, message)] * count

    def handler(request: FakeRequest) -> Tensors:
        if failures:
            raise request.failure(*failures.pop())
        return answer_all(request)

    return handler
