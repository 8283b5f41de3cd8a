"""HTTP, through tritonclient.

tritonclient's blocking HTTP client is bound to the thread that made it (gevent), so ``SyncTransport`` keeps one client,
and one connection, for each thread that calls it; ``close`` closes the caller's, the others close when their threads
end. ``AioTransport`` belongs to one event loop.

tritonclient has only time-outs of single socket operations here (blocking) or none for a single call (asyncio). A timer
around the whole call makes ``timeout_s`` mean the same as over gRPC, and whatever the socket reports by itself is
then a connection that failed, not a server that is slow.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from numpy.typing import NDArray

from warmswap_client.endpoint import Endpoint
from warmswap_client.errors import RequestTimeoutError, ServerUnreachableError, WarmswapError
from warmswap_client.http_errors import status_error
from warmswap_client.options import Parameters
from warmswap_client.tcp import describe, knock, knock_async
from warmswap_client.tensors import build_inputs, build_outputs, import_tritonclient, read_outputs

T = TypeVar("T")

GRACE_S: Final = 0.1


class _DeadlineError(OSError):
    """The deadline of a blocking call."""


class _Http:
    """What the two transports have in common."""

    def __init__(self, endpoint: Endpoint, module: str) -> None:
        self._endpoint = endpoint
        self._triton = import_tritonclient(module)

    def _infer_arguments(
        self,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
    ) -> dict[str, Any]:
        return {
            "model_name": model,
            "inputs": build_inputs(self._triton, inputs),
            "outputs": build_outputs(self._triton, outputs),
            "parameters": dict(parameters),
            "request_id": request_id,
        }

    def _too_slow(self, timeout_s: float, model: str | None) -> WarmswapError:
        return RequestTimeoutError(f"no answer within {timeout_s:.3g} s", url=self._endpoint.url, model=model)

    def _broken(self, error: Exception, model: str | None) -> WarmswapError:
        """A connection that was refused, reset or closed.

        That it broke after the request was sent, for example because a kept connection was stale, makes no difference:
        an inference changes nothing on the server, so it may be sent again.
        """
        return ServerUnreachableError(describe(error), url=self._endpoint.url, model=model)

    def _refused(self, error: Any, model: str | None) -> WarmswapError:
        return status_error(error.status(), error.message() or "", url=self._endpoint.url, model=model)


class SyncTransport(_Http):
    """Blocking HTTP; see ``Transport``."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Prepare; each thread connects on its first call."""
        super().__init__(endpoint, "tritonclient.http")
        import gevent
        from geventhttpclient.response import HTTPParseError

        self._gevent = gevent
        self._connection_errors = (OSError, HTTPParseError)
        self._thread = threading.local()

    def _call(self, action: Callable[[Any], T], timeout_s: float, model: str | None = None) -> T:
        """Let this thread's client do something, within a deadline.

        geventhttpclient closes a socket only after an OSError, so that is what the first timer raises. While it
        connects, an OSError makes it try the next address instead; the second timer puts an end to that.
        """
        first = self._gevent.Timeout(timeout_s, _DeadlineError())
        second = self._gevent.Timeout(timeout_s + GRACE_S)
        try:
            with second, first:
                return action(self._client())
        except (_DeadlineError, self._gevent.Timeout) as fired:
            self.close()  # the connection is in the middle of a request
            if fired is not second and not isinstance(fired, _DeadlineError):
                raise  # a timer of the caller
            raise self._too_slow(timeout_s, model) from None
        except self._triton.InferenceServerException as error:
            raise self._refused(error, model) from error
        except self._connection_errors as error:
            self.close()
            raise self._broken(error, model) from error

    def _client(self) -> Any:
        client = getattr(self._thread, "client", None)
        if client is None:
            tls = {"ssl": True, "ssl_context_factory": self._tls_context}
            client = self._triton.InferenceServerClient(
                self._endpoint.address,
                connection_timeout=None,
                network_timeout=None,
                **(tls if self._endpoint.tls else {}),
            )
            self._thread.client = client
        return client

    def _tls_context(self) -> Any:
        files = self._endpoint.tls_files
        context = self._gevent.ssl.create_default_context(cafile=None if files.ca is None else str(files.ca))
        if files.cert is not None:
            context.load_cert_chain(str(files.cert), str(files.key))
        return context

    def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""
        knock(self._endpoint, timeout_s)

    def infer(
        self,
        *,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
        timeout_s: float,
    ) -> dict[str, NDArray[Any]]:
        """As in ``Transport``."""
        arguments = self._infer_arguments(model, inputs, outputs, parameters, request_id)
        return self._call(lambda client: read_outputs(client.infer(**arguments), outputs), timeout_s, model)

    def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return self._call(lambda client: bool(client.is_server_live()), timeout_s)

    def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return self._call(lambda client: bool(client.is_server_ready()), timeout_s)

    def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return self._call(lambda client: bool(client.is_model_ready(model)), timeout_s, model)

    def server_metadata(self, *, timeout_s: float) -> dict[str, str]:
        """As in ``Transport``."""
        return self._call(lambda client: dict(client.get_server_metadata()), timeout_s)

    def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
        """As in ``Transport``."""
        return self._call(lambda client: list(client.get_model_repository_index()), timeout_s)

    def close(self) -> None:
        """Close the connection of the calling thread."""
        client = getattr(self._thread, "client", None)
        if client is not None:
            self._thread.client = None
            client.close()


class AioTransport(_Http):
    """HTTP in an event loop; see ``AsyncTransport``."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Prepare; the session is made on the first call, because it needs the running loop."""
        super().__init__(endpoint, "tritonclient.http.aio")
        import aiohttp

        # tritonclient hands aiohttp the whole body at once, and aiohttp would rather read it bit by bit.
        warnings.filterwarnings("ignore", "Sending a large body directly", ResourceWarning)
        self._connection_errors = (OSError, aiohttp.ClientError)
        self._client: Any = None

    async def _call(self, action: Callable[[Any], Awaitable[T]], timeout_s: float, model: str | None = None) -> T:
        """Let the client do something, within a deadline."""
        if self._client is None:
            self._client = self._triton.InferenceServerClient(
                self._endpoint.address,
                conn_timeout=None,
                ssl=self._endpoint.tls,
                ssl_context=self._endpoint.tls_files.context() if self._endpoint.tls else True,
            )
        timer = asyncio.timeout(timeout_s)
        try:
            async with timer:
                return await action(self._client)
        except self._triton.InferenceServerException as error:
            raise self._refused(error, model) from error
        except self._connection_errors as error:
            raise (self._too_slow(timeout_s, model) if timer.expired() else self._broken(error, model)) from error

    async def connect(self, *, timeout_s: float) -> None:
        """As in ``Transport``."""
        await knock_async(self._endpoint, timeout_s)

    async def infer(
        self,
        *,
        model: str,
        inputs: Mapping[str, bytes],
        outputs: Sequence[str],
        parameters: Parameters,
        request_id: str,
        timeout_s: float,
    ) -> dict[str, NDArray[Any]]:
        """As in ``Transport``."""
        arguments = self._infer_arguments(model, inputs, outputs, parameters, request_id)
        result = await self._call(lambda client: client.infer(**arguments), timeout_s, model)
        return read_outputs(result, outputs)

    async def server_live(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return bool(await self._call(lambda client: client.is_server_live(), timeout_s))

    async def server_ready(self, *, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return bool(await self._call(lambda client: client.is_server_ready(), timeout_s))

    async def model_ready(self, *, model: str, timeout_s: float) -> bool:
        """As in ``Transport``."""
        return bool(await self._call(lambda client: client.is_model_ready(model), timeout_s, model))

    async def server_metadata(self, *, timeout_s: float) -> dict[str, str]:
        """As in ``Transport``."""
        return dict(await self._call(lambda client: client.get_server_metadata(), timeout_s))

    async def repository_index(self, *, timeout_s: float) -> list[dict[str, str]]:
        """As in ``Transport``."""
        return list(await self._call(lambda client: client.get_model_repository_index(), timeout_s))

    async def close(self) -> None:
        """As in ``Transport``."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()
