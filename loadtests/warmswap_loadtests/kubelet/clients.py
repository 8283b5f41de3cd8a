"""Who sends the requests: warmswap's own client, over HTTP and gRPC, with and without retries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from warmswap_client import grpc_transport, http_transport
from warmswap_client.async_client import AsyncFaceSwapClient
from warmswap_client.endpoint import parse_url
from warmswap_client.errors import WarmswapError
from warmswap_client.options import Parameters
from warmswap_client.retry import NO_RETRIES, RetryPolicy
from warmswap_loadtests.envoy import Envoy
from warmswap_loadtests.envoy_config import REQUEST_HEADER, Protocol, Service
from warmswap_loadtests.open_loop import RequestFailedError
from warmswap_loadtests.payloads import ONE_FACE, Payload, fresh_source

PLAIN: Final = "plain"
GATEWAY: Final = "gateway"
RETRYING: Final = "retrying"
PROTOCOLS: Final[tuple[Protocol, ...]] = ("http", "grpc")
GATEWAY_RETRIES: Final = 2
GATEWAY_RETRY_ON: Final = "connect-failure,refused-stream"
"""Of a request that no replica has seen: this is safe for any request, and what gateways do by default."""
RETRY: Final = RetryPolicy(max_attempts=8)
"""Lasts for some seconds, so that it outlives the time in which endpoints still name a dead replica. The default of
three attempts is over in 0.3 s at most, and a balancer that prefers idle replicas sends all three to the dead one."""

KINDS: Final = {
    PLAIN: "no retries anywhere",
    GATEWAY: f"Envoy tries another replica when one cannot be connected to ({GATEWAY_RETRY_ON}), the client does not",
    RETRYING: f"warmswap_client tries up to {RETRY.max_attempts} times, Envoy does not",
}

_number: ContextVar[int] = ContextVar("request_number")


@dataclass(frozen=True, slots=True)
class Stream:
    """A kind of client: every so-manieth request is its."""

    protocol: Protocol
    kind: str

    @property
    def service(self) -> str:
        """Envoy's service that it talks to."""
        return service_name(self.protocol, gateway=self.kind == GATEWAY)


def make_streams(protocols: Sequence[Protocol]) -> list[Stream]:
    """Return every kind of client over every protocol."""
    return [Stream(protocol, kind) for kind in KINDS for protocol in protocols]


def service_name(protocol: Protocol, *, gateway: bool) -> str:
    """Return the name of a service: one per protocol, with and without Envoy's retries."""
    return f"{protocol}-{GATEWAY}" if gateway else protocol


def services() -> Iterator[Service]:
    """Yield what Envoy offers; only endpoints decide who gets traffic."""
    for protocol in PROTOCOLS:
        for gateway in (False, True):
            yield Service(
                service_name(protocol, gateway=gateway),
                probe_path=None,
                protocol=protocol,
                slow_start_s=0.0,
                retries=GATEWAY_RETRIES if gateway else 0,
                retry_on=GATEWAY_RETRY_ON,
            )


class _NumberedHttp(http_transport.AioTransport):
    """The client's own transport, with the number of the request in a header."""

    def _infer_arguments(self, *arguments: Any) -> dict[str, Any]:
        return {**super()._infer_arguments(*arguments), "headers": {REQUEST_HEADER: str(_number.get())}}


class _NumberedGrpc(grpc_transport.AioTransport):
    """As ``_NumberedHttp``."""

    def _request(
        self, model: str, inputs: Mapping[str, bytes], outputs: Sequence[str], parameters: Parameters, *rest: Any
    ) -> dict[str, Any]:
        request = super()._request(model, inputs, outputs, parameters, *rest)
        return {**request, "headers": {REQUEST_HEADER: str(_number.get())}}


class Clients:
    """One client per stream; a ``Send`` of ``open_loop`` that takes turns. For an ``async with`` block."""

    def __init__(self, streams: Sequence[Stream], envoy: Envoy, payload: Payload, timeout_s: float) -> None:
        """Prepare.

        Args:
            streams: Who takes turns.
            envoy: Runs; has ``services()``.
            payload: What every request holds; each brings a source that no cache knows.
            timeout_s: The patience of a client.
        """
        self.streams = list(streams)
        self._envoy, self._payload, self._timeout_s = envoy, payload, timeout_s
        self._stack = AsyncExitStack()
        self._clients: list[AsyncFaceSwapClient] = []

    async def __aenter__(self) -> Self:
        """Make the clients."""
        for stream in self.streams:
            url = f"{stream.protocol}://{self._envoy.address(stream.service)}"
            transport = (_NumberedGrpc if stream.protocol == "grpc" else _NumberedHttp)(parse_url(url))
            retry = RETRY if stream.kind == RETRYING else NO_RETRIES
            client = AsyncFaceSwapClient(url, timeout_s=self._timeout_s, retry=retry, transport=transport)
            self._clients.append(await self._stack.enter_async_context(client))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close them."""
        await self._stack.aclose()

    def stream_of(self, index: int) -> Stream:
        """Return whose turn the request of that number is."""
        return self.streams[index % len(self.streams)]

    async def __call__(self, index: int) -> bytes:
        """Send the request of that number and return the picture.

        Raises:
            RequestFailedError: no picture came back; the text begins with the class of the client's error.
        """
        _number.set(index)
        payload = fresh_source(self._payload, index)
        try:
            client = self._clients[index % len(self._clients)]
            return (await client.swap(payload.source, payload.target, face_selector=ONE_FACE)).image
        except WarmswapError as error:
            raise RequestFailedError(f"{type(error).__name__}: {error}") from error
